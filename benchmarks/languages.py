"""How often the language of a text is identified, by how many words it has.

    python benchmarks/languages.py

Eight short answers in each of eight languages, written for this table: from one word to a sentence. Words of scripts
without spaces are counted as half their characters.
"""

import sys
import time
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from wavalign.plugins.speech.languages import language_of

ANSWERS = {
    "en": (
        "it is twelve",
        "that is paris",
        "The capital of France is Paris.",
        "I think you should take an umbrella because it is going to rain.",
        "Sure, here is a short story about a dog who learned to swim.",
        "Yes, I can help you with that.",
        "no",
        "Water boils at one hundred degrees Celsius at sea level.",
    ),
    "de": (
        "es ist zwölf",
        "das ist paris",
        "Die Hauptstadt von Frankreich ist Paris.",
        "Ich glaube, du solltest einen Schirm mitnehmen, weil es regnen wird.",
        "Klar, hier ist eine kurze Geschichte über einen Hund.",
        "Ja, dabei kann ich dir helfen.",
        "nein",
        "Wasser kocht bei hundert Grad Celsius auf Meereshöhe.",
    ),
    "fr": (
        "c'est douze",
        "c'est paris",
        "La capitale de la France est Paris.",
        "Je pense que tu devrais prendre un parapluie parce qu'il va pleuvoir.",
        "Bien sûr, voici une petite histoire d'un chien.",
        "Oui, je peux vous aider avec ça.",
        "non",
        "L'eau bout à cent degrés Celsius au niveau de la mer.",
    ),
    "es": (
        "son las doce",
        "eso es parís",
        "La capital de Francia es París.",
        "Creo que deberías llevar un paraguas porque va a llover.",
        "Claro, aquí tienes una historia corta sobre un perro.",
        "Sí, puedo ayudarte con eso.",
        "no",
        "El agua hierve a cien grados Celsius al nivel del mar.",
    ),
    "nl": (
        "het is twaalf",
        "dat is parijs",
        "De hoofdstad van Frankrijk is Parijs.",
        "Ik denk dat je een paraplu moet meenemen omdat het gaat regenen.",
        "Natuurlijk, hier is een kort verhaal over een hond.",
        "Ja, daar kan ik je mee helpen.",
        "nee",
        "Water kookt bij honderd graden Celsius op zeeniveau.",
    ),
    "zh": (
        "是十二",
        "那是巴黎",
        "法国的首都是巴黎。",
        "我觉得你应该带一把伞,因为要下雨了。",
        "当然,这里有一个关于狗的小故事。",
        "可以,我能帮你。",
        "不",
        "水在海平面一百摄氏度沸腾。",
    ),
    "ru": (
        "это двенадцать",
        "это париж",
        "Столица Франции — Париж.",
        "Я думаю, тебе стоит взять зонт, потому что будет дождь.",
        "Конечно, вот короткий рассказ о собаке.",
        "Да, я могу вам с этим помочь.",
        "нет",
        "Вода кипит при ста градусах Цельсия на уровне моря.",
    ),
    "ja": (
        "十二です",
        "それはパリです",
        "フランスの首都はパリです。",
        "雨が降るので傘を持っていくといいと思います。",
        "もちろん、犬の短い話です。",
        "はい、お手伝いできます。",
        "いいえ",
        "水は海面で百度で沸騰します。",
    ),
}
UNSPACED = ("zh", "ja")
BINS = ((1, 2), (3, 5), (6, 8), (9, 99))


def main() -> None:
    """Print a line a length."""
    language_of("loaded before it is timed")
    right, count = defaultdict[tuple[int, int], int](int), defaultdict[tuple[int, int], int](int)
    began = time.perf_counter()
    for language, texts in ANSWERS.items():
        for text in texts:
            words = max(1, len(text) // 2 if language in UNSPACED else len(text.split()))
            where = next(each for each in BINS if each[0] <= words <= each[1])
            right[where] += language_of(text)[0] == language
            count[where] += 1
    spent = time.perf_counter() - began
    print("| words | identified | of |\n|---|---|---|")
    for low, high in BINS:
        print(f"| {low} to {high if high < 99 else '...'} | {right[low, high]} | {count[low, high]} |")
    print(f"\n{1000 * spent / sum(count.values()):.2f} ms a text")


if __name__ == "__main__":
    main()

"""The built-in plugins: one literal table, (kind, type) -> "module:Class"."""

ENTRY_POINT_GROUP = "wavalign.plugins"
"""Where packages of others register theirs."""
KIND_NAMES = (
    *("architecture", "codec", "nar", "data", "reward", "mask", "advantage", "gate", "loss", "sampler"),
    *("provider", "metric", "tracker"),
)
"""The kinds in the order of `plugins.api`, for those who do not wait for it to be imported."""

CATALOG: dict[tuple[str, str], str] = {
    ("architecture", "codec_lm"): "wavalign.plugins.architectures.codec_lm:CodecLm",
    ("architecture", "kimi"): "wavalign.plugins.architectures.kimi:KimiAudio",
    ("architecture", "vita"): "wavalign.plugins.architectures.vita:VitaAudio",
    ("codec", "glm4voice"): "wavalign.plugins.codecs.glm4voice:Glm4VoiceCodec",
    ("codec", "process"): "wavalign.plugins.codecs.process:ProcessCodec",
    ("codec", "source_filter"): "wavalign.plugins.codecs.source_filter:SourceFilterCodec",
    ("codec", "transformers"): "wavalign.plugins.codecs.transformers:TransformersCodec",
    ("data", "hf_dataset"): "wavalign.plugins.data.hf_dataset:HfDataset",
    ("data", "jsonl"): "wavalign.plugins.data.jsonl:Jsonl",
    ("data", "parquet"): "wavalign.plugins.data.parquet:Parquet",
    ("data", "research_jsonl"): "wavalign.plugins.data.research_jsonl:ResearchJsonl",
    ("data", "spoken_world"): "wavalign.plugins.data.spoken_world:SpokenWorld",
    ("nar", "process"): "wavalign.plugins.nars.process:ProcessNar",
    ("provider", "in_process"): "wavalign.plugins.providers.in_process:InProcess",
    ("sampler", "kv_cache"): "wavalign.plugins.samplers.kv_cache:KvCache",
    ("reward", "answer_match"): "wavalign.plugins.rewards.answer_match:AnswerMatch",
    ("reward", "asr_consistency"): "wavalign.plugins.rewards.asr_consistency:AsrConsistency",
    ("reward", "reward_model"): "wavalign.plugins.rewards.reward_model:LearnedReward",
    ("reward", "speaking_style"): "wavalign.plugins.rewards.speaking_style:SpeakingStyle",
    ("reward", "speech_quality"): "wavalign.plugins.rewards.speech_quality:SpeechQuality",
    ("mask", "roles"): "wavalign.plugins.masks.roles:Roles",
    ("advantage", "group_normalized"): "wavalign.plugins.advantages.group_normalized:GroupNormalized",
    ("gate", "fixed"): "wavalign.plugins.gates.fixed:Fixed",
    ("gate", "linear"): "wavalign.plugins.gates.linear:Linear",
    ("gate", "rollout_adaptive"): "wavalign.plugins.gates.rollout_adaptive:RolloutAdaptive",
    ("loss", "bradley_terry"): "wavalign.plugins.losses.bradley_terry:BradleyTerry",
    ("loss", "cross_entropy"): "wavalign.plugins.losses.cross_entropy:CrossEntropy",
    ("loss", "grpo"): "wavalign.plugins.losses.grpo:GRPO",
    ("loss", "kl"): "wavalign.plugins.losses.kl:KL",
    ("metric", "text_accuracy"): "wavalign.plugins.metrics.text_accuracy:TextAccuracy",
    ("metric", "heard_answer"): "wavalign.plugins.metrics.heard_answer:HeardAnswer",
    ("metric", "style_accuracy"): "wavalign.plugins.metrics.style_accuracy:StyleAccuracy",
    ("metric", "speech_quality"): "wavalign.plugins.metrics.speech_quality:SpeechQuality",
    ("metric", "well_formed"): "wavalign.plugins.metrics.well_formed:WellFormed",
    ("tracker", "mlflow"): "wavalign.plugins.trackers.mlflow:Mlflow",
    ("tracker", "tensorboard"): "wavalign.plugins.trackers.tensorboard:TensorBoard",
    ("tracker", "trackio"): "wavalign.plugins.trackers.trackio:Trackio",
    ("tracker", "wandb"): "wavalign.plugins.trackers.wandb:Wandb",
}

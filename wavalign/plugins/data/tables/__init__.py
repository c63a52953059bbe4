"""What sources of files share: finding the files, reading their rows, and turning rows into dialogues."""

"""What the scripts print about a wrong command line."""


def unframed(text: str) -> str:
    """The text that tyro prints in a frame, without frame and line breaks."""
    return " ".join(word for word in text.split() if word.strip("─│╭╮╰╯-"))

from collections.abc import Mapping

class Answers:
    answers: list[bytes]
    def __init__(self, answers: Mapping[bytes, bytes]) -> None: ...

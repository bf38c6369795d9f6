"""What Python sees of the calls on text files: they are awaited."""

from typing import final

from aiouring._filesteps import StepCall

@final
class TextCall(StepCall): ...

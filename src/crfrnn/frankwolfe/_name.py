"""Taking the import name `CRF`, in this process and in those that it starts."""

from crfrnn._face import Face

_FACE = Face(
    "CRF",
    "crfrnn.frankwolfe",
    example=(
        "from CRF import FrankWolfeParams",
        "FrankWolfeParams.__module__",
        "'crfrnn.frankwolfe._params'",
    ),
)

install, uninstall, installed, taken = _FACE.functions()
claim = _FACE.register

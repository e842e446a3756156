"""Taking the import name `bilateralfilter`, in this process and in those that it starts."""

from crfrnn._face import Face

_FACE = Face(
    "bilateralfilter",
    "crfrnn.bilateralfilter",
    example=(
        "from bilateralfilter import bilateralfilter",
        "bilateralfilter.__module__",
        "'crfrnn.bilateralfilter._filter'",
    ),
)

install, uninstall, installed, taken = _FACE.functions()
claim = _FACE.register

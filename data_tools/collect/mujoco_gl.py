"""Where MuJoCo finds OpenGL without a display: EGL, else OSMesa.

MuJoCo picks its renderer when it is first imported, so `choose_gl` comes before that.
"""

import os
from ctypes.util import find_library

from data_tools.collect.runner import MissingEngine

GL_PACKAGES = "libegl1 libegl-mesa0 libgl1-mesa-dri libgl1"
INSTALL_GL = (
    "MuJoCo finds no OpenGL to draw with; install Mesa's, which needs no display and no GPU: "
    f"apt-get install --no-install-recommends {GL_PACKAGES}"
)


def choose_gl() -> str:
    """Set MUJOCO_GL and PYOPENGL_PLATFORM where the user has not; call before importing MuJoCo.

    Raises:
        MissingEngine: neither EGL nor OSMesa is installed.
    """
    chosen = os.environ.get("MUJOCO_GL", "").lower() or _installed()
    os.environ["MUJOCO_GL"] = chosen
    if chosen in ("egl", "osmesa"):
        os.environ["PYOPENGL_PLATFORM"] = chosen
    return chosen


def _installed() -> str:
    for library, name in (("EGL", "egl"), ("OSMesa", "osmesa")):
        if find_library(library):
            return name
    raise MissingEngine(INSTALL_GL)

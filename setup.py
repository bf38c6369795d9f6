"""Builds every Cython module of the package; a C compiler and Cython are all it needs. What clang and libbpf add is in tools/build_bpf.py."""
import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

# pip runs this file from the checkout's folder without that being where modules are looked for.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from tools.build_bpf import COMMANDS

PACKAGE = Path("aiouring")

# A test build adds its flags here (the address sanitizer, for one); nothing else reads the environment.
EXTRA_FLAGS = os.environ.get("AIOURING_CFLAGS", "").split()

PROGRAMS = Path("bpf_progs")

# What an extension has beside its .pyx: the programs that ship, for the engine that runs them in the process.
MORE_SOURCES = {"_hook": [str(PROGRAMS / "inline.c")], "_bpfop": [str(PROGRAMS / "ops" / "inline.c")]}

extensions = [
    Extension(
        ".".join(source.with_suffix("").parts),
        [str(source), *MORE_SOURCES.get(source.stem, [])],
        include_dirs=[str(PACKAGE / "include"), str(PROGRAMS / "include")],
        extra_compile_args=["-O2", "-Wall", "-Wno-unused-function", "-Wno-sign-compare", *EXTRA_FLAGS],
        extra_link_args=EXTRA_FLAGS,
        depends=[str(header) for folder in (PACKAGE, PROGRAMS) for header in sorted([*folder.glob("include/**/*.h"), *folder.glob("**/*.bpf.c")])]
        + [str(header) for header in sorted(PROGRAMS.glob("ops/*.h"))],
    )
    for source in sorted([*PACKAGE.glob("*.pyx"), *PACKAGE.glob("bpf/*.pyx")])
]

setup(
    cmdclass=COMMANDS,
    # The compiler's runs are independent of each other.
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
    ext_modules=cythonize(
        extensions,
        language_level=3,
        nthreads=os.cpu_count() or 1,
        compiler_directives={
            "embedsignature": True,
            "freethreading_compatible": False,
        },
    ),
)

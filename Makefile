# Batch Norm, Executed. `make` lists what there is; every target installs what it needs first.
PYTHON ?= $(or $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done),python3)
PY    := .venv/bin/python
STAMP := .venv/installed-in
TORCH := $(shell sed -n 's/^\(torch==[^ ;]*\).*/\1/p' requirements.txt)
CPU   := https://download.pytorch.org/whl/cpu
GPU   := $(shell nvidia-smi >/dev/null 2>&1 && echo yes)
# Gigabytes that must be free: measured 1.8 (CPU) and about 8 (CUDA) for .venv, and room to unpack.
NEED  := $(if $(GPU),14,4)

# One thread for each process, since notebooks run side by side; no progress bars in pages.
book test: export OMP_NUM_THREADS = 1
book test: export MKL_NUM_THREADS = 1
book test: export NORMLAB_PROGRESS = 0
# The kernel is the one in .venv, whatever kernels and start-up files the user has.
export JUPYTER_PREFER_ENV_PATH = 1
export IPYTHONDIR = $(CURDIR)/.venv/ipython
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help install book test lab records lint clean grader assignments grade
help:
	@echo "make book      execute every lesson and build the website in _build/html"
	@echo "make test      lint, unit tests, and every notebook once more under pytest"
	@echo "make lab       open JupyterLab on the lessons"
	@echo "make records   run every experiment at full scale and write results/ (wants a GPU)"
	@echo "make assignments       build what students get, in coursework/release"
	@echo "make grade DIR=folder  grade the submissions in a folder (see coursework/README.md)"
	@echo "make lint      form of code, notebooks and spelling"
	@echo "make install   only set up .venv (the others do it too)"
	@echo "make clean     delete what was built, keep .venv"

book: install
	@$(PY) -m normlab.execute
	@rm -rf _build/html
	@.venv/bin/jupyter-book build . --all -W -n --keep-going
	@echo "The book: $(CURDIR)/_build/html/index.html"

test: lint grader
	@$(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder

lab: install
	@$(PY) -m jupyterlab chapters

records: install
	@for file in code/normlab/experiments/[a-z]*.py; do \
	  name=$$(basename "$$file" .py); echo "== $$name"; $(PY) -m normlab.experiments.$$name || exit 1; done

assignments: grader
	@PYTHONPATH=coursework $(PY) -m grader.release

# Also: A=assignment OUT=folder JOBS=processes SCHEDULER=address LIMIT=seconds QUICK=1 TRUST=1
grade: grader
	@[ -n "$(DIR)" ] || { echo "Say where the submissions are: make grade DIR=folder"; exit 1; }
	@PYTHONPATH=coursework $(PY) -m grader.grade "$(DIR)" $(if $(A),--assignment $(A)) \
	  $(if $(OUT),--out "$(OUT)") $(if $(JOBS),--processes $(JOBS)) $(if $(LIMIT),--seconds $(LIMIT)) \
	  $(if $(SCHEDULER),--scheduler $(SCHEDULER)) \
	  $(if $(QUICK),--quick) $(if $(TRUST),--trust)

lint: install
	@$(PY) -m ruff check --quiet . && $(PY) -m ruff format --check --quiet . \
	  || { echo "ruff: mend with  $(PY) -m ruff check --fix . && $(PY) -m ruff format ."; exit 1; }
	@$(PY) -m codespell_lib .
	@find chapters coursework -name '*.ipynb' -not -path '*/.*' -print0 2>/dev/null | xargs -0 -r $(PY) -m nbstripout --verify --keep-id \
	  || { echo "nbstripout: mend with  $(PY) -m nbstripout --keep-id NOTEBOOK"; exit 1; }
	@$(PY) -m pytest -q --no-header tests/test_notebooks.py  # kernelspec and all other form

clean:
	rm -rf _build

# --- setting up -------------------------------------------------------------------------------
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif
install: $(STAMP)
$(STAMP): requirements.txt code/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Python 3.11 or newer is needed, but $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo missing)." \
	  "Install one, or name it: make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) has no venv or ensurepip. On Debian and Ubuntu: sudo apt install python3-venv"; exit 1; }
	@$(PYTHON) -c 'import shutil, sys; free = shutil.disk_usage(".").free / 1e9; \
	  sys.exit(f"{free:.1f} GB are free on this disk, $(NEED) GB are needed for .venv." if free < $(NEED) else 0)'
	@echo "[1/3] Python environment in .venv"
	@$(PYTHON) -m venv .venv
	@echo "[2/3] $(TORCH), the build for $(if $(GPU),CUDA (nvidia-smi found a GPU),the CPU)"
	@$(PY) -m pip install --no-deps $(if $(GPU),,--retries 0 --timeout 15 --extra-index-url $(CPU)) "$(TORCH)" \
	  || $(PY) -m pip install --no-deps "$(TORCH)"
	@echo "[3/3] the other packages"
	@$(PY) -m pip install -r requirements.txt
	@mkdir -p .venv/ipython/profile_default
	@echo 'get_config().IPKernelApp.log_level = 40' > .venv/ipython/profile_default/ipython_kernel_config.py
	@echo "$(CURDIR)" > $(STAMP)
grader: .venv/grader
.venv/grader: coursework/requirements.txt $(STAMP)
	@$(PY) -m pip install --quiet -r requirements.txt -r coursework/requirements.txt
	@touch .venv/grader

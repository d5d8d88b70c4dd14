# make test runs everything that a change must pass; each of its steps is a target of its own.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build

PYTHON ?= python3
GO ?= go
# staticcheck 2026.2.2
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
TALLY := $(GO) run ./.ci/tally
# What is not in a normal build.
TAGS := faults,soak

# The Python of the tests, with ruff and uv; nothing else of this machine's Python is used.
VENV := $(CURDIR)/.venv
export SRPO_TEST_PYTHON := $(VENV)/bin/python
# uv, for srpo itself, where the machine has none.
export PATH := $(PATH):$(VENV)/tools

STEPS := fmt vet staticcheck proto-check ruff mypy go-test fuzz python-test examples smoke faults hangs remote libero libero-plus

.PHONY: build test soak bench openvla pi0 wheels parity results proto clean venv $(STEPS)

build:
	$(GO) build -o srpo ./cmd/srpo

test:
	@MAKE="$(MAKE)" bash .ci/test $(STEPS)

fmt:
	@changed=$$(git ls-files -co --exclude-standard '*.go' | xargs gofmt -l); [ -z "$$changed" ] || { echo "gofmt would change:"; echo "$$changed"; exit 1; }

vet:
	$(GO) vet ./... ./.ci/tally
	$(GO) vet -tags $(TAGS) ./host/... ./cmd/...

staticcheck:
	$(GO) run $(STATICCHECK) ./... ./.ci/tally
	$(GO) run $(STATICCHECK) -tags $(TAGS) ./host/... ./cmd/...

proto:
	plugins/proto/generate.sh

# The committed code is what the .proto files make.
proto-check: venv
	plugins/proto/generate.sh --check

ruff: venv
	$(VENV)/bin/ruff check .

# The types of the Python kit.
mypy: venv
	cd sdk/python && $(VENV)/bin/mypy --cache-dir=$(VENV)/mypy

# The wheel of the Python kit, for pip install.
wheels: venv
	bash .ci/wheels sdk/python/dist

# The encoders' tests install what their plugins install, by the program that is tested.
go-test: export SRPO_TEST_PROGRAM := $(CURDIR)/srpo
go-test: build venv
	bash .ci/environments
	$(GO) test -race -timeout 20m -json ./... ./.ci/tally | $(TALLY) go go-test

# Every fuzz target, 60 s in all.
fuzz:
	GO="$(GO)" bash .ci/fuzz

# 20 kill points of plugins and 20 of the host: the run that went on must be the undisturbed one, bit for bit. docs/results/faults.sh tries 200 of each.
faults:
	$(GO) test -race -tags faults -count=1 -timeout 20m -run '^TestKillPoints$$' -json ./cmd/srpo | $(TALLY) go faults

# Each plugin stopped in each kind of call: its heart is not heard any more. Takes a minute or two, as it waits.
hangs:
	$(GO) test -race -tags faults -count=1 -timeout 20m -run '^TestHangs$$' -json ./cmd/srpo | $(TALLY) go hangs

# 20 restarts of plugins and a minute of the default run: nothing in the host grows. docs/results/soak.sh takes hours.
soak:
	$(GO) test -tags soak -count=1 -timeout 20m -run '^TestSoak$$' -v ./cmd/srpo

python-test: venv
	@rm -f $(VENV)/pytest.xml; cd sdk/python; status=0; \
	$(VENV)/bin/python -m pytest -q -p no:cacheprovider --junitxml=$(VENV)/pytest.xml || status=$$?; cd $(CURDIR); \
	$(TALLY) junit python-test $(VENV)/pytest.xml; exit $$status

# Plugins as their authors would write them, through srpo plugin test.
examples: build venv
	bash .ci/examples

# The README's first command, shortened, stopped in the middle and resumed.
smoke: build
	bash .ci/smoke

# Real MuJoCo: installs the libero plugin as a user's first run does, runs its tests in that environment, and trains for one short iteration.
libero: build venv
	bash .ci/libero

# The 10,030 variants: the same, and the contract on a variant of each dimension that runs.
libero-plus: build venv
	bash .ci/libero-plus

# The client of openpi's websocket protocol, against its published server.
remote: build venv
	bash .ci/remote

# OpenVLA's plugin in its own environment (6 GB): its tests, and the contract.
openvla: build venv
	bash .ci/openvla

# pi0's and pi0-fast's plugins in their own environments (5 GB each, downloaded once): their tests, against lerobot itself too, and the contract.
pi0: build venv
	bash .ci/pi0

# Tables of speed: env steps, host overhead, the data plane.
bench: build
	./srpo bench

# Against the originals: the exporter of encoders and the training of the tiny world model against torch, the goldens of policies/openvla made anew with the
# published code, which also loads what an update saved, pi0, pi0-fast and data sets beside lerobot. Writes docs/results/parity-*.md. Downloads several GB at the first time, and takes minutes.
parity: build venv
	bash .ci/parity
	bash .ci/parity-policies
	bash .ci/parity-datasets

# What makes docs/results. Each is a run of its own and some take long, so they are listed and not run.
results:
	@ls docs/results/*.sh 2>/dev/null | sed 's/^/bash /' || true
	@grep -hoE '(\./srpo|go run \./cmd/srpo|srpo) (bench|run|eval|report|imitate) [^`]*' docs/results/*.md 2>/dev/null | sort -u || true

venv: $(VENV)/complete

$(VENV)/complete: sdk/python/requirements-test.txt .ci/requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, this is " + sys.version)'
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r sdk/python/requirements-test.txt -r .ci/requirements.txt
	mkdir $(VENV)/tools
	ln -s ../bin/uv $(VENV)/tools/uv
	touch $@

clean:
	rm -rf srpo $(VENV)

# `make help` lists the targets. `make test` runs everything that a change must pass; each of its steps is a target too.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build

PYTHON ?= python3
GO ?= go
# staticcheck 2026.2.2
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.6.2
GOTESTSUM := gotest.tools/gotestsum@v1.13.0
TALLY := $(GO) run ./.ci/tally
# Build tags of the tests that kill processes and run long.
TAGS := faults,soak

# The tests' own Python, with ruff, mypy and uv. No other Python of this machine is used.
VENV := $(CURDIR)/.venv
export SRPO_TEST_PYTHON := $(VENV)/bin/python
# uv for srpo itself, where the machine has none.
export PATH := $(PATH):$(VENV)/tools

STEPS := fmt vet cross staticcheck lint proto-check ruff mypy docs go-test fuzz python-test examples smoke faults hangs remote libero \
	libero-plus

.PHONY: help build test soak bench openvla pi0 wheels gymnasium parity results proto release clean venv $(STEPS)

# go_test NAME,ARGUMENTS: Go tests with the race detector, counted as the step NAME.
define go_test
	@mkdir -p $(VENV); status=0; \
	$(GO) run $(GOTESTSUM) --format pkgname-and-test-fails --junitfile $(VENV)/$(1).xml -- -race -timeout 20m $(2) || status=$$?; \
	$(TALLY) junit $(1) $(VENV)/$(1).xml; exit $$status
endef

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## ./srpo
	$(GO) build -o srpo ./cmd/srpo

test: ## everything that a change must pass; about 20 minutes on two cores
	@MAKE="$(MAKE)" bash .ci/test $(STEPS)

fmt: ## gofmt
	@changed=$$(git ls-files -co --exclude-standard '*.go' | xargs gofmt -l); \
	[ -z "$$changed" ] || { echo "gofmt would change:"; echo "$$changed"; exit 1; }

vet: ## go vet
	$(GO) vet ./... ./.ci/tally
	$(GO) vet -tags $(TAGS) ./host/... ./cmd/...

# The systems and processors that srpo builds for, without cgo as a cross build has none.
PLATFORMS := linux/amd64 linux/arm64 darwin/amd64 darwin/arm64
cross: ## go vet for every supported platform
	@for p in $(PLATFORMS); do echo "go vet for $$p"; CGO_ENABLED=0 GOOS=$${p%/*} GOARCH=$${p#*/} $(GO) vet ./...; done

staticcheck: ## staticcheck
	$(GO) run $(STATICCHECK) ./... ./.ci/tally
	$(GO) run $(STATICCHECK) -tags $(TAGS) ./host/... ./cmd/...

lint: ## golangci-lint with .golangci.yml: line length, misspellings, unused code
	$(GO) run $(GOLANGCI) run ./...

proto: ## generate the code of the .proto files
	plugins/proto/generate.sh

proto-check: venv ## the committed code is what the .proto files generate
	plugins/proto/generate.sh --check

ruff: venv ## ruff
	$(VENV)/bin/ruff check .

mypy: venv ## the types of the Python kit
	cd sdk/python && $(VENV)/bin/mypy --cache-dir=$(VENV)/mypy

wheels: venv ## the Python kit as a wheel, in sdk/python/dist
	bash .ci/wheels sdk/python/dist

# The encoders' tests install what their plugins install, with the program under test.
go-test: export SRPO_TEST_PROGRAM := $(CURDIR)/srpo
go-test: build venv ## all Go tests with the race detector
	bash .ci/environments
	$(call go_test,go-test,./... ./.ci/tally)

fuzz: ## every fuzz target, 60 s in total
	GO="$(GO)" bash .ci/fuzz

# The resumed runs must equal the undisturbed one bit for bit. docs/results/faults.sh tries 200 points of each kind.
faults: ## 20 kill points of plugins and 20 of the host
	$(call go_test,faults,-tags faults -count=1 -run '^TestKillPoints$$' ./cmd/srpo)

hangs: ## each plugin stopped in each kind of call; takes a minute or two, because the test waits for timeouts
	$(call go_test,hangs,-tags faults -count=1 -run '^TestHangs$$' ./cmd/srpo)

# docs/results/soak.sh runs for hours.
soak: ## 20 restarts of plugins and a minute of the default run; memory and file descriptors must not grow
	$(GO) test -tags soak -count=1 -timeout 20m -run '^TestSoak$$' -v ./cmd/srpo

python-test: venv ## the Python kit
	@rm -f $(VENV)/pytest.xml; cd sdk/python; status=0; \
	$(VENV)/bin/python -m pytest -q -p no:cacheprovider --junitxml=$(VENV)/pytest.xml || status=$$?; cd $(CURDIR); \
	$(TALLY) junit python-test $(VENV)/pytest.xml; exit $$status

examples: build venv ## the example plugins and those of `srpo plugin init`, through `srpo plugin test`
	bash .ci/examples

gymnasium: build venv ## examples/gymnasium, through `srpo plugin test`; installs MuJoCo and Meta-World
	bash .ci/gymnasium

smoke: build ## the README's first command, shortened: stopped and resumed
	bash .ci/smoke

# Installs the plugin as a user's first run does, runs its tests in that environment, and trains for a short iteration.
libero: build venv ## LIBERO on real MuJoCo
	bash .ci/libero

libero-plus: build venv ## LIBERO-Plus: the same, and the contract on a variant of each dimension
	bash .ci/libero-plus

remote: build venv ## the client of openpi's websocket protocol, against its published server
	bash .ci/remote

openvla: build venv ## OpenVLA in its own environment (6 GB): tests and contract
	bash .ci/openvla

pi0: build venv ## pi0 and pi0-fast in their own environments (5 GB each): tests against lerobot, and contract
	bash .ci/pi0

# Tables of speed: overhead of the host, transport of frames and clips, env steps and encoder clips per second.
bench: build
	$(GO) run ./cmd/srpo-bench
	./srpo bench

# Compares the exporter of encoders and the training of the tiny world model with torch, the policies with the published
# code and lerobot, data sets with lerobot. Writes docs/results/parity-*.md. Downloads several GB at the first time.
parity: build venv ## compare with the original implementations
	bash .ci/parity
	bash .ci/parity-policies
	bash .ci/parity-datasets

# Each is a run of its own and some take long, so they are listed and not run.
results: ## list the commands that make docs/results
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

docs: $(VENV)/docs ## the documentation site, in docs/_build/html; a broken link is an error
	$(VENV)/docs/bin/sphinx-build -q -W --keep-going -b html docs docs/_build/html

$(VENV)/docs: .ci/requirements-docs.txt $(VENV)/complete
	rm -rf $@
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@

release: venv ## binaries, checksums, SBOM, wheel and module archives of the checked-out tag, into dist/
	GO="$(GO)" bash .ci/release

clean: ## remove what this Makefile builds
	rm -rf srpo $(VENV)

# Everything here needs Go, make, a C compiler (the race detector) and Debian
# packages that .ci/run names. Tools are built from tools/*/go.mod.

GO       ?= go
GOTEST   ?= $(GO) test
TESTED   ?= ./...
# Parsers that read what strangers send get FUZZLONG, the others FUZZTIME. Unbounded,
# making one input of interest smaller takes up to a minute in which nothing is tried.
FUZZTIME ?= 10s
FUZZLONG ?= 60s
FUZZNETWORK := FuzzReadOpen FuzzReadReply FuzzReadHello FuzzParseHeader FuzzScanner FuzzParseReset FuzzInbound FuzzFollow \
	FuzzSplice FuzzSession FuzzChannels FuzzTunnelReader FuzzRequest FuzzPortForwardPath FuzzClaims FuzzParseCSR FuzzReports \
	FuzzParseTrace
COMMANDS := culvert culvert-relay culvert-agent

CACHE    := $(CURDIR)/.cache
TOOLS    := $(CACHE)/tools
RUNTIME  := $(CACHE)/bin
AS_ROOT  := $(if $(filter 0,$(shell id -u)),,sudo env "PATH=$(PATH)")
BUILD    := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=auto -tags grpcnotrace -ldflags '-s -w'

# The client runs on people's machines, the other two on servers.
CLIENT_PLATFORMS := linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64
SERVER_PLATFORMS := linux/amd64 linux/arm64
# Packages that must compile, tests too, where there is no Linux.
PORTABLE := ./cmd/culvert/... ./forward/... ./netns/... ./proto/...

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## the three commands into bin/
	$(BUILD) -o bin/ $(COMMANDS:%=./cmd/%)

.PHONY: cross
cross: $(CLIENT_PLATFORMS:%=cross/culvert/%) $(SERVER_PLATFORMS:%=cross/culvert-relay/%) $(SERVER_PLATFORMS:%=cross/culvert-agent/%) ## every command for every platform into bin/OS-ARCH/

cross/%: command = $(word 1,$(subst /, ,$*))
cross/%: os = $(word 2,$(subst /, ,$*))
cross/%: arch = $(word 3,$(subst /, ,$*))
cross/%:
	GOOS=$(os) GOARCH=$(arch) $(BUILD) -o bin/$(os)-$(arch)/ ./cmd/$(command)

# As root a missing runtime or package is a failure, not a skipped test.
TEST_AS_ROOT := $(if $(filter 0,$(shell id -u)),CULVERT_TEST_RUNTIME=required)

.PHONY: test
test: $(if $(TEST_AS_ROOT),deps runtime) ## every test, with the race detector; as root also those with namespaces and real containerd
	$(TEST_AS_ROOT) $(GOTEST) -race -timeout 25m $(TESTED)

.PHONY: test-unit
test-unit: ## the tests of the rooms, without those that cross processes
	$(GOTEST) -race -timeout 10m $$($(GO) list ./... | grep -v '/culvert/test')

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (10s), those that face the network for FUZZLONG (60s); finds are kept in testdata/fuzz
	@GO='$(GO)' .ci/fuzz $(FUZZTIME) $(FUZZLONG) $(FUZZNETWORK)

.PHONY: cover
cover: ## statement coverage of the tests
	@mkdir -p $(CACHE)
	$(GOTEST) -timeout 25m -coverpkg ./... -coverprofile $(CACHE)/cover.out ./...
	$(GO) tool cover -func $(CACHE)/cover.out | tail -n 1

.PHONY: lint
lint: $(TOOLS)/golangci-lint $(TOOLS)/buf ## golangci-lint and buf lint
	cd proto && $(TOOLS)/buf lint
	$(TOOLS)/golangci-lint run ./...

.PHONY: vet
vet: ## gofmt, go vet for Linux, macOS and Windows
	@unformatted=$$(git ls-files -z '*.go' | xargs -0 gofmt -l); \
	if [ -n "$$unformatted" ]; then echo "not gofmt'ed: $$unformatted"; exit 1; fi
	$(GO) vet ./...
	GOOS=darwin $(GO) vet $(PORTABLE)
	GOOS=windows $(GO) vet $(PORTABLE)

.PHONY: check
check: vet lint check-generate ## vet, lint and check-generate: what to run before a commit

GENERATORS := $(TOOLS)/buf $(TOOLS)/protoc-gen-go $(TOOLS)/protoc-gen-go-grpc

.PHONY: generate
generate: $(GENERATORS) ## Go code from the .proto files
	cd proto && PATH=$(TOOLS):$$PATH $(TOOLS)/buf generate

.PHONY: check-generate
check-generate: $(GENERATORS) ## fail if the generated code is not what the .proto files say
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && cd proto && \
	PATH=$(TOOLS):$$PATH $(TOOLS)/buf generate -o "$$fresh" && \
	for file in $$(find . -name '*.pb.go') $$(cd "$$fresh" && find . -name '*.pb.go'); do \
		diff -u "$$file" "$$fresh/$$file" || { echo "run make generate and commit the result"; exit 1; }; \
	done

.PHONY: vuln
vuln: $(TOOLS)/govulncheck ## known vulnerabilities that the product can reach; fails if the database cannot be had
	@.ci/vulnerabilities

# Images and chart are made in a module of their own, deploy/go.mod; deploy/watch/go.mod
# has Prometheus, for the tests of the alerts. The chart
# says which version the images have.
VERSION ?= $(shell sed -n 's/^appVersion: *"\(.*\)"/\1/p' deploy/chart/Chart.yaml)
IMAGES  := -out ../bin/images -version $(VERSION) -revision '$(shell git rev-parse HEAD 2>/dev/null)'

.PHONY: images
images: ## container images into bin/images/: OCI layouts, and docker archives for each architecture; no engine needed
	cd deploy && $(GO) run ./images $(IMAGES)

.PHONY: chart
chart: ## the Helm chart as a package into bin/
	@mkdir -p bin
	cd deploy && $(GO) run ./render -package ../bin

.PHONY: install-yaml
install-yaml: ## deploy/install.yaml from the chart
	cd deploy && $(GO) run ./render -write install.yaml

.PHONY: check-deploy
check-deploy: $(TOOLS)/golangci-lint ## lint, render and compare: chart, install.yaml, images, alerts, dashboard, docs/security.md
	cd deploy && $(GO) mod tidy -diff && $(GO) vet ./... && $(TOOLS)/golangci-lint run ./... && $(GO) test -count=1 ./...
	cd deploy/watch && $(GO) mod tidy -diff && $(TOOLS)/golangci-lint run ./... && $(GO) test -count=1 ./...

.PHONY: runtime
runtime: ## containerd and runc for the tests with real pods, into .cache/bin/
	$(GO) build -C test/runtime -trimpath -tags seccomp -o $(RUNTIME)/ tool

# What .cache/bin holds is newer than what it was built from, or built again.
KUBERNETES := $(addprefix $(RUNTIME)/,kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl)
CLUSTER_MOD := test/cluster/build/go.mod test/cluster/build/go.sum

.PHONY: cluster-binaries
cluster-binaries: $(KUBERNETES) $(RUNTIME)/etcd $(RUNTIME)/coredns $(RUNTIME)/kubectl-old ## Kubernetes and etcd for tests with a real cluster, into .cache/bin/; takes long once

$(KUBERNETES) &: $(CLUSTER_MOD)
	@mkdir -p $(RUNTIME)
	version=$$(cd test/cluster/build && $(GO) list -m -f '{{.Version}}' k8s.io/kubernetes) && \
	CGO_ENABLED=0 $(GO) build -C test/cluster/build -trimpath -o $(RUNTIME)/ \
		-ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$$version -X k8s.io/client-go/pkg/version.gitVersion=$$version" \
		$(KUBERNETES:$(RUNTIME)/%=k8s.io/kubernetes/cmd/%)
	@touch $(KUBERNETES)

$(RUNTIME)/etcd: $(CLUSTER_MOD)
	CGO_ENABLED=0 $(GO) build -C test/cluster/build -trimpath -ldflags '-s -w' -o $@ go.etcd.io/etcd/server/v3
	@touch $@

$(RUNTIME)/coredns: test/cluster/dns/main.go test/cluster/dns/go.mod test/cluster/dns/go.sum
	CGO_ENABLED=0 $(GO) build -C test/cluster/dns -trimpath -ldflags '-s -w' -o $@ .
	@touch $@

OLDKUBECTL := test/cluster/oldkubectl
$(RUNTIME)/kubectl-old: $(OLDKUBECTL)/main.go $(OLDKUBECTL)/go.mod $(OLDKUBECTL)/go.sum
	version=$$(cd $(OLDKUBECTL) && $(GO) list -m -f '{{.Version}}' k8s.io/kubectl | sed s/v0/v1/) && \
	CGO_ENABLED=0 $(GO) build -C $(OLDKUBECTL) -trimpath -o $@ \
		-ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$$version -X k8s.io/client-go/pkg/version.gitVersion=$$version" .
	@touch $@

# What the targets for root use beside Go. Missing ones are installed where there
# is apt-get; NO_INSTALL=1 only names them.
PACKAGES := gcc libc6-dev pkg-config libseccomp-dev tcpdump iproute2 containernetworking-plugins nftables iptables busybox-static

.PHONY: deps
deps: ## the Debian packages that tests and demo use, as root
	@command -v dpkg-query >/dev/null || exit 0; \
	missing=$$(for p in $(PACKAGES); do \
		[ "$$(dpkg-query -W -f '$${db:Status-Status}' $$p 2>/dev/null)" = installed ] || echo $$p; done); \
	[ -n "$$missing" ] || exit 0; \
	if [ -n "$(NO_INSTALL)" ]; then echo "missing packages:" $$missing; exit 1; fi; \
	echo "installing missing packages:" $$missing; \
	$(AS_ROOT) apt-get update -qq && $(AS_ROOT) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing

.PHONY: demo
demo: deps ## the whole path on this machine, told step by step; asks sudo for root
	@$(AS_ROOT) $(GO) run ./test/demo

.PHONY: run
run: deps ## a relay, an agent and a pod on this machine, for trying by hand
	@$(AS_ROOT) $(GO) run ./test/demo -stay

.PHONY: cluster
cluster: ## a Kubernetes cluster on this machine, for trying by hand; needs runtime and cluster-binaries
	@$(AS_ROOT) $(GO) run ./test/cluster/up

.PHONY: e2e
e2e: deps runtime cluster-binaries ## Culvert installed on such a cluster, and tried with two kubectls and culvert; writes docs/compatibility.md
	@$(AS_ROOT) env CULVERT_TEST_CLUSTER=required $(GO) test -count=1 -timeout 30m ./test/e2e

# With REPORT=write the results go to docs/reliability.md; otherwise it must name all
# that was tried. SOAK is how long random faults go on.
REPORT  ?= write
SOAK    ?= 10m
FAULTS  := CULVERT_TEST_FAULTS=required CULVERT_TEST_RUNTIME=required CULVERT_TEST_CLUSTER=required CULVERT_FAULTS_REPORT=$(REPORT)

.PHONY: faults
faults: deps runtime cluster-binaries ## carriers, processes, disks, clocks and certificates broken under load; writes docs/reliability.md
	@$(AS_ROOT) env $(FAULTS) $(GO) test -count=1 -parallel 4 -timeout 25m -run 'TestFaults|TestCrowd|TestCluster' ./test/faults

.PHONY: soak
soak: deps runtime ## random faults under load for SOAK (10m); writes its part of docs/reliability.md
	@$(AS_ROOT) env $(FAULTS) CULVERT_SOAK=$(SOAK) $(GO) test -count=1 -v -timeout 3h -run TestSoak ./test/faults

.PHONY: nightly
nightly: ## what takes hours: a soak of an hour, each fuzz target for five minutes, end to end, every measurement
	$(MAKE) --no-print-directory faults
	$(MAKE) --no-print-directory soak SOAK=1h
	$(MAKE) --no-print-directory fuzz FUZZTIME=5m FUZZLONG=5m
	$(MAKE) --no-print-directory e2e
	$(MAKE) --no-print-directory bench

# What to add to the command line of the benchmark, such as -cases bulk,requests or
# -quick; "make bench BENCH=-help" says all.
BENCH ?=

.PHONY: bench
bench: deps runtime cluster-binaries ## Culvert beside the stock path and the limit, on such a cluster; writes docs/performance.md; ten minutes
	@$(AS_ROOT) $(GO) run ./test/bench $(BENCH)

.PHONY: bench-guard
bench-guard: deps ## fails if culvert has fallen far behind the limit; a minute, needs no cluster
	@$(AS_ROOT) $(GO) run ./test/bench -bare -quick -rounds 3 -check $(BENCH)

.PHONY: cluster-down
cluster-down: ## end what make cluster started in another terminal
	@$(AS_ROOT) $(GO) run ./test/cluster/up -down

.PHONY: size
size: $(SERVER_PLATFORMS:%=cross/culvert/%) $(SERVER_PLATFORMS:%=cross/culvert-relay/%) $(SERVER_PLATFORMS:%=cross/culvert-agent/%) ## size of the Linux binaries, and how many packages each links
	@for command in $(COMMANDS); do \
		packages=$$($(GO) list -deps ./cmd/$$command | wc -l); \
		for platform in $(subst /,-,$(SERVER_PLATFORMS)); do \
			printf '%-14s %-12s %9d bytes, %4d packages\n' $$command $$platform $$(stat -c %s bin/$$platform/$$command) $$packages; \
		done; \
	done

.PHONY: footprint
footprint: deps ## idle memory of the programs; asks sudo for root
	@$(AS_ROOT) $(GO) run ./test/demo -footprint

.PHONY: clean
clean: ## remove what was built
	rm -rf bin $(CACHE) test/artifacts

.PHONY: tools
tools: $(TOOLS)/golangci-lint $(TOOLS)/buf $(TOOLS)/gotestsum $(TOOLS)/govulncheck ## linters, generators and checkers into .cache/tools/

# golangci-lint and buf have modules of their own, since each wants its
# dependencies in exactly the versions it was tested with.
$(TOOLS)/golangci-lint: tools/lint/go.mod tools/lint/go.sum
	CGO_ENABLED=0 $(GO) build -C tools/lint -trimpath -o $(TOOLS)/ tool
	@touch $@

$(TOOLS)/buf: tools/buf/go.mod tools/buf/go.sum
	CGO_ENABLED=0 $(GO) build -C tools/buf -trimpath -o $(TOOLS)/ tool
	@touch $@

SMALL := $(addprefix $(TOOLS)/,benchstat gotestsum govulncheck protoc-gen-go protoc-gen-go-grpc)
$(SMALL) &: tools/go.mod tools/go.sum
	CGO_ENABLED=0 $(GO) build -C tools -trimpath -o $(TOOLS)/ tool
	@touch $(SMALL)

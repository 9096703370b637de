# What is built goes to bin/ (programs) and build/ (the in-memory system,
# images, caches). `make deps` installs what is needed besides Go.

GO          ?= go
# Everything but the race detector's binaries is compiled the same way, static
# and with trimmed paths: what vet has compiled neither the linters, the programs
# nor the end-to-end tests compile again.
export GOFLAGS     := $(filter-out -trimpath,$(shell $(GO) env GOFLAGS)) -trimpath
export CGO_ENABLED := 0
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS      = -ldflags '-s -w -X main.version=$(VERSION)'
APT         ?= $(if $(filter 0,$(shell id -u)),apt-get,sudo apt-get)

# QEMU with firmware and boot programs; what makes disk images; what the
# agent's system takes from this machine; foreign peers of the tests.
DEPS = qemu-system-x86 ipxe-qemu ovmf ipxe shim-signed grub-efi-amd64-signed grub-pc-bin grub-common xorriso \
       mmdebstrap fakeroot uidmap gdisk mtools e2fsprogs dosfstools xfsprogs util-linux ca-certificates \
       mdadm lvm2 dmsetup cryptsetup-bin libgcc-s1 \
       dpkg xz-utils zstd busybox-static dnsmasq-base openssh-client iproute2 swtpm swtpm-tools

# Foreign clients, relay agents and tools that the end-to-end tests hold against us.
E2E_DEPS = btrfs-progs ignition tcpdump netplan.io network-manager frr bird2 containerd isc-dhcp-relay isc-dhcp-client udhcpc atftp tftp-hpa curl qemu-utils mount procps lldpd ipmitool redfishtool python3-sushy openipmi

.DEFAULT_GOAL := build
.PHONY: e2e-all e2e-life e2e-boot e2e-faults build agentos debian-image storage-image ignition-image live-image deps e2e-deps clean test e2e demo bench check
FIRMWARE    ?= uefi

## demo: the main job in a virtual rack, from nothing to a proven login (FIRMWARE=bios|uefi|uefi-http)
demo: deps build agentos debian-image
	bin/bedplate demo --firmware $(FIRMWARE)

## test: every test that needs neither root nor a network
test:
	CGO_ENABLED=1 $(GO) test -race ./...

## e2e: real firmware in QEMU, foreign DHCP servers and clients, crashes
e2e: e2e-deps build agentos debian-image storage-image
	@$(MAKE) -j3 e2e-life e2e-boot e2e-faults

## e2e-all: the same, and what the gate has no time for: every medium and firmware, storage under Secure Boot and crashes
e2e-all: export BEDPLATE_E2E_ALL = 1
e2e-all: ignition-image live-image e2e

# Two that boot at a time are as many as two cores carry. The third, faults of
# BMCs, does little but wait for deadlines.
LIFE   = TestLife|TestErase|TestHardware|TestRescue|TestStorage.*
FAULTS = TestBMCFaults|TestKilled
# Those whose tests do more with the switch; make test has run all others already.
E2E_PACKAGES = $(addprefix ./,$(sort $(dir $(shell grep -rlF BEDPLATE_E2E --include=*_test.go agent images lab test/interop))))
e2e-life:
	BEDPLATE_E2E=1 $(GO) test -count=1 -v -timeout 80m -run '^($(LIFE))$$' ./test/e2e
e2e-boot:
	BEDPLATE_E2E=1 $(GO) test -count=1 -p 1 -timeout 40m $(E2E_PACKAGES)
	BEDPLATE_E2E=1 $(GO) test -count=1 -v -timeout 80m -skip '^($(LIFE)|$(FAULTS))$$' ./test/e2e

e2e-faults:
	BEDPLATE_E2E=1 $(GO) test -count=1 -v -timeout 80m -run '^($(FAULTS))$$' ./test/e2e

## e2e-stack: stacks on a real control plane with simulated nodes; builds Kubernetes at first, which takes minutes
# BEDPLATE_STACK_EXAMPLES names a folder with published manifests and the chart of Cilium; without it they are left out.
.PHONY: e2e-stack
e2e-stack:
	BEDPLATE_E2E=1 $(GO) test -count=1 -v -timeout 40m ./test/stack

## bench: what the speed claims rest on, each against its peer in one run
bench: build agentos debian-image
	$(GO) test -run '^$$' -bench . -skip ImagePipeline -benchtime 3x ./test/bench/...
	$(GO) test -run '^$$' -bench ImagePipeline -benchtime 1x ./test/bench
	$(GO) test -run '^$$' -bench . ./dhcp/... ./machine/index ./store/bolt ./lab
	BEDPLATE_E2E=1 $(GO) test -run TestProvision -count=1 -v -timeout 30m ./test/bench

## check: formatting, linters; generated code and pages are what they would be made now
check:
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); \
	if [ -n "$$unformatted" ]; then echo "not formatted, run gofmt -w on:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	@sum() { find proto -type f | sort | xargs sha256sum | sha256sum; }; was=$$(sum); \
	$(GO) run ./proto/generate || exit 1; \
	if [ "$$was" != "$$(sum)" ]; then git status --short proto; echo "proto: the generated code was not up to date: commit what has changed"; exit 1; fi
	$(GO) test -count=1 ./test/arch ./test/docs ./workflow/action
	$(GO) test -count=1 -run 'TestReference' ./cmd/bedplate

## build: both programs, static, in bin/
build:
	$(GO) build $(LDFLAGS) -o bin/bedplate ./cmd/bedplate
	$(GO) build -tags grpcnotrace $(LDFLAGS) -o bin/bedplate-agent ./cmd/bedplate-agent

## agentos: the in-memory system, in build/agentos/
agentos: build
	bin/bedplate agentos build --out build/agentos --agent bin/bedplate-agent

## debian-image: a small Debian disk image, build/images/debian.raw.zst
debian-image: build
	bin/bedplate debian-image --out build/images/debian.raw.zst

## ignition-image: the same, configured by Ignition, build/images/debian-ignition.raw.zst
ignition-image: build
	bin/bedplate debian-image --out build/images/debian-ignition.raw.zst --ignition

## live-image: the same as a kernel and an initramfs that run in memory, build/images/debian-live.*
live-image: build
	bin/bedplate debian-image --live

## storage-image: the same with netplan and what opens RAID, LVM and encrypted devices at boot, build/images/debian-storage.raw.zst
storage-image: build
	bin/bedplate debian-image --out build/images/debian-storage.raw.zst --package mdadm,lvm2,thin-provisioning-tools,xfsprogs,dosfstools,netplan.io \
	  --package libtss2-esys-3.0.2-0,libtss2-mu0,libtss2-rc0,libtss2-tcti-device0

## deps: Debian packages that building and the lab need
deps: PACKAGES = $(DEPS)
e2e-deps: PACKAGES = $(DEPS) $(E2E_DEPS)
deps e2e-deps:
	@missing=; for p in $(PACKAGES); do \
	  dpkg-query -W -f='$${db:Status-Status}' $$p 2>/dev/null | grep -qx installed || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then \
	  $(APT) update -q && DEBIAN_FRONTEND=noninteractive $(APT) install -q -y --no-install-recommends $$missing; fi
	@apt-cache show linux-image-amd64 >/dev/null 2>&1 || $(APT) update -q

clean:
	rm -rf bin build

# Everything a newcomer needs; each target sets up what is missing, and a second time nothing is.

CARGO ?= cargo
TARGET = $(or $(CARGO_TARGET_DIR),target)

.DEFAULT_GOAL := help
.PHONY: backlog bench chaos check deb deb-test degrade deny deployments drill equality erasure freshness fuzz help install isolation kafka reads regions rolling run runbooks siege test upgrade

help: ## Print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## Start everything and stream a real data set in (DEMO=0: an empty system); ctrl-C stops
	@deploy/tallyhouse/setup.sh
	@$(CARGO) build --release --locked --bin tallyhouse --bin loadtest
	@deploy/tallyhouse/run.sh

test: ## Run all tests, against a real ClickHouse, Redis and Kafka (KAFKA_TESTS=off: without Kafka)
	@deploy/tallyhouse/setup.sh --tests
	@$(CARGO) build --locked --bin tallyhouse --bin ingest --bin query-api
	@echo "test: all crates, then all against a real ClickHouse, Redis and Kafka"
	@$(CARGO) test --workspace --locked --no-fail-fast
	@echo "test: all passed"

deployments: ## Check deploy/compose and deploy/k8s, and run what compose starts, without containers
	@deploy/tallyhouse/setup.sh --tests
	@$(CARGO) build --locked --bin tallyhouse --bin ingest --bin query-api
	@DEPLOYMENTS=all $(CARGO) test --locked -p tallyhouse --test deployments -- --nocapture

check: ## Order of modules, formatting, lints and documentation
	@.ci/layers --self-test
	@.ci/layers
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items --locked

deny: ## Check advisories, licences, and which crates may use which (needs cargo-deny and the network)
	@command -v cargo-deny >/dev/null || { echo "make deny: cargo-deny is missing: cargo install --locked cargo-deny" >&2; exit 1; }
	$(CARGO) deny check

fuzz: ## Fuzz each target for a minute (FUZZ_SECONDS=600); needs cargo-fuzz and a nightly compiler
	@command -v cargo-fuzz >/dev/null || { echo "make fuzz: cargo-fuzz is missing: cargo install --locked cargo-fuzz" >&2; exit 1; }
	@$(CARGO) +nightly --version >/dev/null 2>&1 || { echo "make fuzz: rustup toolchain install nightly" >&2; exit 1; }
	@for target in $$($(CARGO) +nightly fuzz list --fuzz-dir fuzz); do \
		$(CARGO) +nightly fuzz run --fuzz-dir fuzz "$$target" -- -max_total_time=$(or $(FUZZ_SECONDS),60) || exit 1; \
	done

bench: ## Measure throughput, latency, freshness, memory and queries in one run (ARGS="--seconds 5")
	@deploy/tallyhouse/setup.sh
	@$(CARGO) build --release --locked --bin tallyhouse --bin loadtest
	@$(TARGET)/release/loadtest bench $(ARGS)

reads: ## Measure how fast dashboards are read over 100 million events (ARGS="--events 10000000")
	@deploy/tallyhouse/setup.sh
	@$(CARGO) build --release --locked --bin tallyhouse --bin loadtest
	@$(TARGET)/release/loadtest reads $(ARGS)

degrade: ## Measure how reading holds up when something goes wrong, over two instances (ARGS="--events 3000000")
	@deploy/tallyhouse/setup.sh --tests
	@$(CARGO) build --release --locked --bin tallyhouse --bin query-api --bin loadtest
	@$(TARGET)/release/loadtest degrade $(ARGS)

freshness: ## Compare answers with raw events while Redis breaks in every way, over three instances (ARGS="--seconds 600 --seed 7")
	@deploy/tallyhouse/setup.sh --tests
	@$(CARGO) build --release --locked --bin tallyhouse --bin query-api --bin loadtest
	@$(TARGET)/release/loadtest freshness $(ARGS)

backlog: ## Measure what durability costs and how a backlog is caught up with (ARGS="--brokers 3 --away 60")
	@deploy/tallyhouse/setup.sh --tests
	@$(CARGO) build --release --locked --bin tallyhouse --bin ingest --bin loadtest
	@$(TARGET)/release/loadtest backlog $(ARGS)

equality: ## Ask questions that nobody thought of, of rollups and of raw events (EVENTS=5000000 QUESTIONS=10000 SEED=7 SHARDS=2: of a cluster)
	@deploy/tallyhouse/setup.sh --tests
	@$(CARGO) build --release --locked --bin tallyhouse
	@EQUALITY_EVENTS=$(or $(EVENTS),5000000) EQUALITY_QUESTIONS=$(or $(QUESTIONS),10000) EQUALITY_SEED=$(or $(SEED),7) \
		EQUALITY_SHARDS=$(or $(SHARDS),2) $(CARGO) test --release --locked -p tallyhouse-query-api --test it -- --nocapture \
		equality::$(if $(SHARDS),shards,rollups)_

erasure: ## Erase a person among 5 million events while others arrive, and look for what is left (EVENTS=1000000)
	@deploy/tallyhouse/setup.sh --tests
	@$(CARGO) build --release --locked --bin tallyhouse
	@TALLYHOUSE_ERASURE_EVENTS=$(or $(EVENTS),5000000) \
		$(CARGO) test --release --locked -p tallyhouse-control --test it -- --nocapture erasures::

install: ## Install as a service of systemd on this machine, below PREFIX (/usr/local); DESTDIR: into a folder
	@deploy/tallyhouse/setup.sh
	@$(CARGO) build --release --locked --bin tallyhouse
	@$(if $(DESTDIR),,$(if $(filter 0,$(shell id -u)),,sudo)) $(TARGET)/release/tallyhouse service install \
		--prefix $(or $(PREFIX),/usr/local) $(if $(DESTDIR),--root $(DESTDIR))

deb: ## Build a Debian package of everything that one machine needs
	@deploy/tallyhouse/setup.sh --deb
	@$(CARGO) build --release --locked --bin tallyhouse
	@.setup/cargo-deb/bin/cargo-deb --no-build --fast --package tallyhouse --output $(TARGET)/debian/

deb-test: deb ## Install that package on copies of this machine, one with a systemd, use it, upgrade and remove it (as root)
	@deploy/systemd/try-package.sh "$$(ls -t $(TARGET)/debian/tallyhouse_*.deb | head -n 1)"
	@deploy/systemd/try-systemd.sh "$$(ls -t $(TARGET)/debian/tallyhouse_*.deb | head -n 1)" || \
		{ [ $$? -eq 77 ] && echo "SKIPPED try-systemd.sh: it needs root, an overlay and cgroups" >&2; }
drill: ## Lose the data folder of an installation behind Kafka, bring it back from a backup, print RPO and RTO (EVENTS=30000)
	@deploy/tallyhouse/setup.sh --tests
	@$(CARGO) build --release --locked --bin tallyhouse
	@TALLYHOUSE_DRILL_EVENTS=$(or $(EVENTS),30000) \
		$(CARGO) test --release --locked -p tallyhouse --test it -- --nocapture drill::

regions: ## Lose a region and bring it back: MirrorMaker 2 between two brokers, failover and failback, each event counted once
	@deploy/tallyhouse/setup.sh --tests --mirror
	@$(CARGO) build --locked --bin tallyhouse
	@REGIONS=on $(CARGO) test --locked -p tallyhouse --test it -- --nocapture regions::

isolation: ## Ask 100,000 questions with one project's credentials beside another's data, and look for a trace of it (REQUESTS=10000 SEED=7)
	@deploy/tallyhouse/setup.sh --tests
	@$(CARGO) build --release --locked --bin tallyhouse
	@ISOLATION_REQUESTS=$(or $(REQUESTS),70000) $(if $(SEED),ISOLATION_SEED=$(SEED)) \
		$(CARGO) test --release --locked -p tallyhouse --test it -- --nocapture isolation::

kafka: ## Start Kafka on 127.0.0.1:9092 with its data in ./data/kafka (KAFKA_BROKER_COUNT=3: three brokers); ctrl-C stops
	@deploy/tallyhouse/setup.sh --kafka
	@$(CARGO) build --release --locked --bin loadtest
	@$(TARGET)/release/loadtest brokers --count $(or $(KAFKA_BROKER_COUNT),1) --data ./data/kafka

chaos: ## Break a fleet of gateway, consumers, brokers, ClickHouse and Redis under load, then compare (ARGS="--seconds 60 --seed 7")
	@deploy/tallyhouse/setup.sh --tests
	@$(CARGO) build --release --locked --bin tallyhouse --bin ingest --bin loadtest
	@$(TARGET)/release/loadtest chaos $(ARGS)

rolling: ## Restart gateways, consumers and query APIs behind nginx, one by one under load, then compare (ARGS="--rounds 5")
	@deploy/tallyhouse/setup.sh --tests
	@$(CARGO) build --release --locked --bin tallyhouse --bin ingest --bin query-api --bin loadtest
	@$(TARGET)/release/loadtest rolling $(ARGS)

siege: ## Attack a running system in every way that was tried, beside somebody else's load, then compare (ARGS="--only half-open")
	@deploy/tallyhouse/setup.sh
	@$(CARGO) build --release --locked --bin tallyhouse --bin loadtest
	@$(TARGET)/release/loadtest siege $(ARGS)

upgrade: ## Open a data folder of an earlier commit with this one, and compare answers (FROM=v0.1.0)
	@deploy/tallyhouse/setup.sh
	@deploy/tallyhouse/upgrade.sh $(FROM)

runbooks: ## Break a system on purpose, once for each runbook, and run the commands of each
	@deploy/tallyhouse/setup.sh --tests
	@$(CARGO) build --locked --bin tallyhouse
	@RUNBOOKS=all $(CARGO) test --locked -p tallyhouse --test it -- --nocapture watch::runbooks

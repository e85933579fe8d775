# An index of commands. Each sets up what it needs; `make setup` alone says what is missing and installs it.
.PHONY: demo test test-under-load lint bench deny components dist setup

programs := --locked --workspace --bin host-demo --bin demo --bin defender-mock

# Shows the main job against the stand-in. Built as the tests build it, so that nothing is built twice.
demo: setup
	cargo build $(programs)
	@# Where it lies is a setting of cargo's: it is asked, which builds nothing more.
	@"$$(cargo build $(programs) --quiet --message-format=json | sed -n 's/.*"executable":"\([^"]*\/demo\)".*/\1/p')"

# Runs every test.
test:
	@bash .ci/setup test
	cargo test --locked --workspace

# Builds the tests once and runs them RUNS times, while other processes keep every core busy. No test may fail.
RUNS := 5
test-under-load:
	@bash .ci/setup test
	@bash .ci/under-load $(RUNS)

lint: setup
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	@# Each of these is usable alone: the limiter without a store, the boundary without WebAssembly.
	cargo clippy --locked --package defender-quota --package defender-gateway -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps

# Prints sizes and ratios, each within one run, and writes them to target/bench. BENCH=--quick takes few rounds.
# BASE=COMMIT builds that commit too, runs both in turn and compares them row by row; BENCH may then also have
# --rounds N and the names of benchmarks.
bench: setup
ifdef BASE
	cargo run --locked --release --package tests --bin bench-compare -- $(BASE) $(BENCH)
else
	cargo bench --locked --package tests --bench call --bench limits --bench batch --bench hosts -- $(BENCH)
endif

# Holds what is depended on to deny.toml. CHECK=advisories needs the network, for their database.
CHECK := licenses bans sources
deny:
	@bash .ci/setup deny
	PATH="$$PATH:$(CURDIR)/target/deny/bin" cargo deny --locked --all-features check $(CHECK)

# Builds the two component files, in target/components/, and nothing of the host.
components: setup
	cargo run --locked --quiet --package dist -- components target/components

# Makes what is shipped, in dist/. PROFILE=dev takes the host as the tests build it, to try the rest.
PROFILE := release
dist: setup
	cargo run --locked --package dist -- $(PROFILE)

setup:
	@bash .ci/setup

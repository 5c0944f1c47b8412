# What asks ClickHouse as Grafana's datasource does, through its driver: .setup/panels, from Go modules. Only where Go is; the test says
# otherwise that it leaves this out.

install_panels() {
    local source="$here/tests/clients/panels"
    local made_of=("$source/main.go" "$source/go.mod" "$source/go.sum")
    if is_made panels "${made_of[@]}" && [[ -x $state/panels ]]; then
        return
    fi
    rm -f "$state/panels"
    if ! has_go_of "$source/go.mod"; then
        say "panels: what asks as Grafana's datasource does is not built, and that part of its test is SKIPPED"
        return
    fi
    say "panels: building what asks as Grafana's datasource does"
    if ! (cd "$source" && go build -mod=readonly -o "$state/panels" .) >&2; then
        say "panels: Go could not build it; that part of its test is SKIPPED"
        return
    fi
    mark_made panels "${made_of[@]}"
}

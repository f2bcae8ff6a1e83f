#!/usr/bin/env bash
# Installs weft on this Docker host: the command line into /usr/local/bin, and the managed plugin. Safe to repeat.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: deploy/install.sh [OPTIONS]

  --plugin-dir DIR  take the plugin from DIR (config.json, rootfs/) instead of building it here with cargo
  --secret FILE     the cluster secret; default /etc/weft/secret, made if it is not there
  --set NAME=VALUE  a setting of the plugin, such as PEERS=10.0.0.2; may be repeated
  --uninstall       remove the plugin and the command line; the secret stays
  --help            this text

On the first host:   deploy/install.sh
On every other:      copy /etc/weft/secret over, readable by root alone, then run it there.
TEXT
}

die() {
    echo "install.sh: $*" >&2
    exit 1
}

plugin=weft:latest
plugin_dir=
secret=/etc/weft/secret
completions=/usr/share/bash-completion/completions
settings=()
uninstall=false
while (($#)); do
    case $1 in
        --plugin-dir | --secret | --set)
            (($# >= 2)) || die "$1 wants a value; see --help"
            case $1 in
                --plugin-dir) plugin_dir=$2 ;;
                --secret) secret=$2 ;;
                --set) settings+=("$2") ;;
            esac
            shift 2
            ;;
        --uninstall) uninstall=true && shift ;;
        --help | -h) usage && exit 0 ;;
        *) die "unknown option $1; see --help" ;;
    esac
done

((EUID == 0)) || die "run it as root: it installs a Docker plugin"
command -v docker >/dev/null || die "docker is not installed: apt-get install docker.io"
docker version --format '{{.Server.Version}}' >/dev/null || die "dockerd does not answer: is it running?"

installed() {
    docker plugin inspect "$plugin" >/dev/null 2>&1
}

if $uninstall; then
    if installed; then
        # Refused while networks use it, which is what an operator wants to hear.
        docker plugin disable "$plugin" >/dev/null 2>&1 || docker plugin inspect --format '{{.Enabled}}' "$plugin" | grep -qx false ||
            die "networks use the plugin: remove them first (docker network ls --filter driver=$plugin)"
        docker plugin rm "$plugin"
    fi
    rm -f /usr/local/bin/weft "$completions/weft"
    echo "weft is removed; the cluster secret stays in $secret"
    exit 0
fi

if [[ -z $plugin_dir ]]; then
    command -v cargo >/dev/null || die "cargo is not installed: install a Rust toolchain, or give --plugin-dir"
    cd "$(dirname "$0")/.."
    plugin_dir=$(mktemp -d)
    trap 'rm -rf "$plugin_dir"' EXIT
    cargo xtask plugin --out "$plugin_dir"
fi
[[ -x $plugin_dir/rootfs/usr/bin/weft && -f $plugin_dir/config.json ]] ||
    die "$plugin_dir is no plugin directory: it holds no config.json and rootfs/usr/bin/weft"

[[ ! -e $secret || -f $secret ]] || die "$secret is not a file: --secret names the file with the cluster secret"

if [[ ! -e $secret ]]; then
    mkdir -p -m 0700 "$(dirname "$secret")"
    "$plugin_dir/rootfs/usr/bin/weft" init --out "$secret"
fi

if installed; then
    echo "the plugin is installed already; to put this build in its place: $0 --uninstall, then again"
    has=$(docker plugin inspect --format '{{range .Settings.Env}}{{println .}}{{end}}' "$plugin")
    for setting in "${settings[@]}"; do
        [[ $setting == *.source=* ]] || grep -qxF -e "$setting" <<<"$has" ||
            echo "install.sh: not set: $setting (docker plugin disable, docker plugin set $plugin $setting, enable)" >&2
    done
    docker plugin inspect --format '{{.Enabled}}' "$plugin" | grep -qx true || docker plugin enable "$plugin" >/dev/null
else
    docker plugin create "$plugin" "$plugin_dir" >/dev/null
    undo() {
        docker plugin rm --force "$plugin" >/dev/null
        die "$1"
    }
    docker plugin set "$plugin" "secret.source=$secret" "${settings[@]}" ||
        undo "dockerd refuses a setting: see above; plugin/README.md lists what can be set"
    docker plugin enable "$plugin" >/dev/null || undo "dockerd could not start the plugin: see above, and its log"
fi

install -m 0755 "$plugin_dir/rootfs/usr/bin/weft" /usr/local/bin/weft.new
mv /usr/local/bin/weft.new /usr/local/bin/weft
if [[ -d $completions ]]; then
    /usr/local/bin/weft completions bash >"$completions/weft"
fi

for _ in {1..50}; do
    if /usr/local/bin/weft status >/dev/null 2>&1; then
        /usr/local/bin/weft status
        echo
        echo "live map and metrics, on this host: http://127.0.0.1:6784/ (HTTP=off turns them off)"
        echo "ready: docker network create --driver=$plugin --attachable my-net"
        exit 0
    fi
    sleep 0.2
done
/usr/local/bin/weft doctor || true
die "the plugin is enabled but not ready; see the faults above"

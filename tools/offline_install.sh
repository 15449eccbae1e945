#!/bin/sh
# Installs edgereel @VERSION@ from this folder, without a network: sh install.sh [--prefix FOLDER] [--no-service]
# For @MACHINE@ with Python @PYTHON@. As root, where systemd is, it also sets up the service.
set -eu

prefix=@PREFIX@
service=yes
python=python@PYTHON@
while [ $# -gt 0 ]; do
    case $1 in
        --prefix) prefix=${2:?--prefix wants a folder}; shift 2 ;;
        --no-service) service=no; shift ;;
        *) echo "usage: sh install.sh [--prefix FOLDER] [--no-service]" >&2; exit 2 ;;
    esac
done
case $prefix in /*) ;; *) prefix=$(pwd)/$prefix ;; esac
fail() { echo "install.sh: $1" >&2; exit 1; }

cd "$(dirname "$0")"
[ "$(uname -s)-$(uname -m)" = "Linux-@MACHINE@" ] || fail "this folder is for Linux on @MACHINE@, and this is $(uname -s) on $(uname -m)"
command -v "$python" > /dev/null || fail "there is no $python here: install it, with its venv module"
sha256sum --check --quiet --strict SHA256SUMS || fail "a file is damaged: copy the folder again"
# What is not listed was not checked, and would be installed all the same.
find . -type f ! -name SHA256SUMS | sed 's#^\./##' | sort > "${TMPDIR:-/tmp}/edgereel-found.$$"
cut -c67- SHA256SUMS | sort > "${TMPDIR:-/tmp}/edgereel-listed.$$"
same=yes
cmp -s "${TMPDIR:-/tmp}/edgereel-found.$$" "${TMPDIR:-/tmp}/edgereel-listed.$$" || same=no
rm -f "${TMPDIR:-/tmp}/edgereel-found.$$" "${TMPDIR:-/tmp}/edgereel-listed.$$"
[ $same = yes ] || fail "a file is here that SHA256SUMS does not list: copy the folder again"

new=$prefix.new
rm -rf "$new"
"$python" -m venv "$new" || fail "$python cannot make an environment: install its venv module"
PIP_CONFIG_FILE=/dev/null "$new/bin/python" -m pip --isolated install --quiet --disable-pip-version-check \
    --no-index --find-links wheels "edgereel[@EXTRAS@]==@VERSION@" || { rm -rf "$new"; fail "the packages cannot be installed"; }
if [ -d bundles ]; then
    cp -R bundles "$new/bundles"
fi
# An environment's programs name their Python by its path: they are written anew for where it will be.
for program in "$new"/bin/*; do
    if [ -f "$program" ] && [ ! -L "$program" ] && head -c 2 "$program" | grep -q '#!'; then
        sed -i "1s#$new/bin/#$prefix/bin/#" "$program"
    fi
done
sed -i "s#$new#$prefix#g" "$new"/bin/activate* "$new/pyvenv.cfg"
rm -rf "$prefix.old"
if [ -e "$prefix" ]; then
    mv "$prefix" "$prefix.old"
fi
mv "$new" "$prefix"
rm -rf "$prefix.old"
"$prefix/bin/edgereel" --version

if [ $service = yes ] && [ "$(id -u)" = 0 ] && [ -d /run/systemd/system ]; then
    sed "s#^ExecStart=@PREFIX@/#ExecStart=$prefix/#" edgereel.service > /etc/systemd/system/edgereel.service
    mkdir -p /etc/edgereel
    if [ ! -e /etc/edgereel/serve.env ]; then
        options=""
        for bundle in "$prefix"/bundles/*.reel; do
            [ -d "$bundle" ] && options="$options --bundle $bundle"
        done
        echo "OPTIONS=\"${options# }\"" > /etc/edgereel/serve.env
    fi
    systemctl daemon-reload
    systemctl enable --now edgereel.service
    echo "http://127.0.0.1:8765"
else
    echo "$prefix/bin/edgereel serve"
fi

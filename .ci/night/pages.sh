#!/usr/bin/env bash
# Make one site of the sites of the targets: the only one stands at the root, several have a page that leads to them.
# Reads SITES, a folder with a folder `compat-site-TARGET` for each.
set -euo pipefail
cd "$SITES"
shopt -s nullglob
targets=()
for folder in compat-site-*; do
    mv "$folder" "${folder#compat-site-}"
    targets+=("${folder#compat-site-}")
done
if [ "${#targets[@]}" = 0 ]; then exit 0; fi # one that was not put into a folder
if [ "${#targets[@]}" = 1 ]; then
    mv "${targets[0]}"/* .
    rmdir "${targets[0]}"
else
    {
        echo '<!doctype html><html lang="en"><meta charset="utf-8"><title>PyTorch compatibility matrix</title><ul>'
        for target in "${targets[@]}"; do echo "<li><a href=\"$target/index.html\">$target</a></li>"; done
        echo '</ul></html>'
    } >index.html
fi

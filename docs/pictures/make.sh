#!/bin/sh
# Turn each .dot file into the .svg file that the page includes. Takes graphviz; run it after a change, and commit both.
set -eu
cd "$(dirname "$0")"
for graph in *.dot; do
    dot -Tsvg "$graph" | sed -n '/^<svg/,$p' >"${graph%.dot}.svg"
done

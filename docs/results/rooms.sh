#!/usr/bin/env bash
# Prints docs/results/rooms.md: the packages of host at two commits, with their imports and lines of code.
# Usage: docs/results/rooms.sh BEFORE AFTER > docs/results/rooms.md
set -eu
before=$1 after=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# packages COMMIT prints "package<tab>lines<tab>characters<tab>lines of tests<tab>imported packages of host", sorted.
packages() {
	mkdir "$work/$1"
	git archive "$1" | tar -x -C "$work/$1"
	(
		cd "$work/$1"
		module=$(go list -m)
		go list -f '{{.ImportPath}} {{join .Imports " "}}' ./host/... | while read -r package imports; do
			folder=${package#"$module/"}
			text() { find "$folder" -maxdepth 1 -name '*.go' "$@" -print0 | xargs -0 -r cat; }
			code=$(text -not -name '*_test.go' | grep -v '^[[:space:]]*//' | tr -d '[:space:]' | wc -c)
			imported=$(tr ' ' '\n' <<<"$imports" | sed -n "s#^$module/host/##p" | sort | paste -sd' ')
			printf '%s\t%d\t%d\t%d\t%s\n' "${folder#host/}" "$(text -not -name '*_test.go' | wc -l)" "$code" \
				"$(text -name '*_test.go' | wc -l)" "$imported"
		done | sort
	)
}

table() {
	echo "| package | lines | code, kB | lines of tests | imports of host |"
	echo "| --- | ---: | ---: | ---: | --- |"
	awk -F'\t' '{ printf "| `%s` | %d | %.1f | %d | %s |\n", $1, $2, $3/1000, $4, $5; a += $2; c += $3; b += $4; n += split($5, x, " ") }
		END { printf "| **%d packages** | **%d** | **%.1f** | **%d** | **%d imports** |\n", NR, a, c/1000, b, n }' "$1"
}

packages "$before" >"$work/before.tsv"
packages "$after" >"$work/after.tsv"
cat <<EOF
# The packages of host before and after

**Question.** Which packages does host consist of, and what do they import, before and after it was divided?

**Result.** Each command is a package now, and a package imports lower layers only.

Made by \`docs/results/rooms.sh $before $after\` with \`go list\`. Imports are those of the packages without their tests. Lines
include comments. Lines are at most 120 columns wide after and were over 250 wide before, so there are more of them. The code in
kB is without comments and white space.

Before, the root of host was one package with the code of six commands, and \`score\` imported \`report\` for its statistics.
After, the root contains \`host/architecture_test.go\` only, and that test orders the packages in layers.

## Before ($before)

$(table "$work/before.tsv")

## After ($after)

$(table "$work/after.tsv")
EOF

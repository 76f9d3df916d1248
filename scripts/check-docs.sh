#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Every file that the documents name exists: targets of relative links, and paths in backquotes that
# begin with a folder of this repository.
set -eu
cd "$(dirname "$0")/.."

documents=$(git ls-files --cached --others --exclude-standard '*.md')
roots='proxy|xds-client|control-plane|injector|ctl|crates|examples|tests|bench|fuzz|deploy|docs|scripts'
bad=0

complain() {
    echo "$1: \`$2\` does not exist" >&2
    bad=1
}

exists() {
    # A pattern names at least one file.
    for file in $1; do
        [ -e "$file" ] && return 0
    done
    return 1
}

for document in $documents; do
    [ -f "$document" ] || continue
    folder=$(dirname "$document")
    for target in $(grep -o '](\([^)#[:space:]]*\)' "$document" | sed 's/^](//' | sort -u); do
        case $target in
            *://* | mailto:*) ;;
            *) exists "$folder/$target" || complain "$document" "$target" ;;
        esac
    done
    for path in $(grep -oE "\`($roots)/[A-Za-z0-9_./*{},-]+\`" "$document" | tr -d '`' | sort -u); do
        # Alternatives in braces are for readers.
        case $path in *[{}]*) continue ;; esac
        exists "$path" || exists "$folder/$path" || complain "$document" "$path"
    done
done
[ $bad = 0 ] && echo "docs: every file they name exists"
exit $bad

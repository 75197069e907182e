#!/bin/bash
# Checks that the version in Cargo.toml can be released. All checks run, even
# after one has failed. The script fails if a check fails.
#
#   release-check.sh [CHECK...]     all of them, or some of these:
#
#   versions   the version is the same in every file
#   changelog  CHANGELOG.md describes this version, in the usual sections
#   abi        a changed ABI has a changed version
#   docs       cargo doc has no warning
#   package    cargo package has all files, and they can be built
#   install    pkg-config and the soname of an installation have the version
#   deb        the Debian packages build, and have the version

set -euo pipefail
cd "$(dirname "$0")/.."

out=$PWD/target/release-check
list=tests/abi/list.txt
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml)
tag=v$version
IFS=. read -r major minor patch <<< "$version"

# The soname and the ABI version by the rules of build.rs and
# src/capi/types.rs.
if [ "$major" = 0 ]; then
    soname=0.$minor
    abi=$minor
else
    soname=$major
    abi=$((1000 * major))
fi

problems=0

problem() {
    echo "release-check.sh: $*" >&2
    problems=$((problems + 1))
}

# Compares a value in a file with the expected value.
same() {
    [ "$2" = "$3" ] || problem "$1 has \"$2\" instead of \"$3\""
}

first() {
    sed -n "$2" "$1" | head -n 1
}

changelog_heading() {
    first CHANGELOG.md '/^## /{ s/^## //; p }'
}

versions() {
    local file
    for file in Cargo.lock fuzz/Cargo.lock; do
        same $file "$(first $file \
            '/^name = "ngx-rs-listen"$/{ n; s/^version = "\(.*\)"$/\1/p }')" \
            "$version"
    done
    file=include/ngx_rs_listen.h
    same $file "$(first $file 's/^#define NGX_RS_VERSION "\(.*\)"$/\1/p')" \
        "$version"
    same $file "$(first $file 's/^#define NGX_RS_ABI_VERSION //p')" "$abi"
    same $list "$(first $list 's/^NGX_RS_ABI_VERSION = //p')" "$abi"
    # make install writes the version from Cargo.toml.
    file=ngx_rs_listen.pc.in
    same $file "$(first $file 's/^Version: //p')" @VERSION@
    file=debian/changelog
    same $file "$(first $file 's/^ngx-rs-listen (\(.*\)-[^-]*) .*/\1/p')" \
        "$version"
    file=debian/control
    same $file "$(first $file 's/^Package: \(libngx-rs-listen[0-9].*\)/\1/p')" \
        "libngx-rs-listen$soname"
    [ -f "debian/libngx-rs-listen$soname.install" ] \
        || problem "debian/libngx-rs-listen$soname.install is missing"
    same CHANGELOG.md "$(changelog_heading | sed 's/ .*//')" "$version"
    [ -f "tests/data/ngx_rs_listen-$soname.h" ] \
        || problem "tests/data/ngx_rs_listen-$soname.h is missing: a copy of" \
            "the header of the first release with this soname"
}

# Prints the section of CHANGELOG.md on its first version.
newest() {
    awk '/^## /{ n++ } n == 1' CHANGELOG.md
}

# Prints the lines of that section below a heading.
section() {
    newest | awk -v name="### $1" '/^#/{ on = $0 == name; next } on && NF'
}

changelog() {
    local heading unknown name
    heading=$(changelog_heading)
    case $heading in
        "$version ("[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]")") ;;
        "$version (not released)")
            echo "CHANGELOG.md: $version gets its date in the commit of the tag"
            [ -z "$(git tag --points-at HEAD "$tag")" ] \
                || problem "CHANGELOG.md: $tag is tagged and has no date"
            ;;
        *) problem "CHANGELOG.md begins with \"## $heading\" instead of" \
            "\"## $version (YYYY-MM-DD)\"" ;;
    esac
    unknown=$(newest | grep '^### ' \
        | grep -vx '### \(Added\|Changed\|Fixed\|ABI\)') || true
    [ -z "$unknown" ] || problem "CHANGELOG.md: unknown section \"$unknown\""
    for name in Added Changed Fixed ABI; do
        if newest | grep -x "### $name" > /dev/null && [ -z "$(section "$name")" ]; then
            problem "CHANGELOG.md: the section \"$name\" is empty"
        fi
    done
    section ABI | grep "Version $abi\b" > /dev/null \
        || problem "CHANGELOG.md: the section \"ABI\" does not name version $abi"
    if git rev-parse -q --verify "refs/tags/$tag" > /dev/null; then
        [ "$(git rev-parse "$tag^{commit}")" = "$(git rev-parse HEAD)" ] \
            || problem "$tag is released already: raise the version"
    fi
}

# Prints the lines of the first list that the second one lacks. Lines on sizes
# and initializers are left out: they may grow, and programs with an older
# header do not depend on that.
lacks() {
    grep -v '^Size of \|^#define [A-Z_]*_INIT ' "$1" | grep -vxFf "$2" || true
}

abi() {
    local last then gone new
    last=$(git describe --tags --abbrev=0 --match 'v[0-9]*' --exclude "$tag" \
        2> /dev/null) || {
        echo "abi: there is no release to compare with"
        return
    }
    mkdir -p "$out"
    then=$out/abi-of-$last
    git show "$last:$list" > "$then"
    if cmp -s "$then" $list; then
        return
    fi
    gone=$(lacks "$then" $list)
    new=$(lacks $list "$then")
    if [ -n "$gone" ]; then
        [ "$(first "$then" 's/^NGX_RS_ABI_VERSION = //p')" != "$abi" ] \
            || problem "$list lacks what $last has, so the ABI version must" \
                "change:"$'\n'"$gone"
    fi
    [ -n "$(section ABI)" ] \
        || problem "the ABI has changed since $last, and CHANGELOG.md has no" \
            "section \"ABI\":"$'\n'"$new"
}

docs() {
    RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --quiet \
        || problem "cargo doc has warnings"
}

package() {
    local packed file
    packed=$(cargo package --locked --list --allow-dirty)
    for file in build.rs CHANGELOG.md include/ngx_rs_listen.h LICENSE README.md \
            $(git ls-files src docs/man); do
        grep -qxF "$file" <<< "$packed" || problem "cargo package lacks $file"
    done
    cargo package --locked --allow-dirty --quiet \
        --target-dir "$out/package" || problem "cargo package failed"
}

install() {
    local name lib=$out/install/usr/lib
    rm -rf "$out/install"
    make -s install PREFIX=/usr DESTDIR="$out/install" || {
        problem "make install failed"
        return
    }
    same ngx_rs_listen.pc \
        "$(first $lib/pkgconfig/ngx_rs_listen.pc 's/^Version: //p')" "$version"
    name=$(readelf -d -W $lib/libngx_rs_listen.so \
        | sed -n 's/.*Library soname: \[\(.*\)\]/\1/p')
    same libngx_rs_listen.so "$name" "libngx_rs_listen.so.$soname"
    [ -f "$lib/$name" ] || problem "$name is not installed"
}

deb() {
    local file count=0
    tests/packages.sh ${DEB_PACKAGES:-}
    debian/build.sh "$out/deb" > /dev/null || {
        problem "the Debian packages do not build"
        return
    }
    for file in "$out"/deb/*.deb; do
        count=$((count + 1))
        case $(dpkg-deb -f "$file" Version) in
            "$version"-*) ;;
            *) problem "${file##*/} is not of version $version" ;;
        esac
    done
    same "the number of packages" $count "$(grep -c '^Package: ' debian/control)"
}

[ $# != 0 ] || set -- versions changelog abi docs package install deb

for check do
    case $check in
        versions | changelog | abi | docs | package | install | deb) ;;
        *) echo "release-check.sh: no check \"$check\"" >&2; exit 2 ;;
    esac
    before=$problems
    "$check"
    [ "$problems" != "$before" ] || echo "$check: ok"
done

if [ "$problems" != 0 ]; then
    echo "release-check.sh: $version cannot be released: $problems problems" >&2
    exit 1
fi

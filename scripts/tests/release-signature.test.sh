#!/usr/bin/env bash
# PGP verification of release tarballs, with real gpg and throw-away keys: one good signature by an allowed key opens
# the tarball, and everything else leaves the target directory empty.
# shellcheck source=scripts/tests/harness.sh
. "$(dirname "$0")/harness.sh"
require gpg xz tar

# shellcheck source=scripts/lib/release-signature.sh
. "$repo/scripts/lib/release-signature.sh"

# --- keys: made in the past, so that some have expired by now ------------------------------------------------------

makers=$tmp/makers
mkdir -m 700 "$makers"
maker() {
  GNUPGHOME=$makers gpg --batch --no-tty --quiet --pinentry-mode loopback --passphrase '' --trust-model always "$@"
}
trap 'gpgconf --homedir "$makers" --kill all >/dev/null 2>&1; finish' EXIT
# make_key USER-ID EXPIRY [GPG-OPTION…]: prints the fingerprint.
make_key() {
  maker "${@:3}" --yes --status-fd 1 --quick-generate-key "$1" ed25519 sign "$2" 2>/dev/null |
    awk '$2 == "KEY_CREATED" { print $4; made = 1 } END { exit !made }'
}
name='Release Signer <signer@kernel.example>'
past=(--faked-system-time 20200101T000000)
allowed=$(make_key "$name" never "${past[@]}") || exit
second=$(make_key 'Second Signer <second@kernel.example>' never "${past[@]}") || exit
stranger=$(make_key 'Somebody Else <else@example.org>' never "${past[@]}") || exit
lookalike=$(make_key "$name" never "${past[@]}") || exit
expired=$(make_key 'Expired Signer <expired@kernel.example>' 2020-06-01 "${past[@]}") || exit
revoked=$(make_key 'Revoked Signer <revoked@kernel.example>' never "${past[@]}") || exit
maker "${past[@]}" --quick-add-key "$second" ed25519 sign never 2>/dev/null
subkey=$(maker --with-colons --list-keys "$second" | awk -F: '/^fpr/ { last = $10 } END { print last }')
for key in "$allowed" "$second" "$stranger" "$lookalike" "$expired" "$revoked"; do
  maker --armor --export "$key" >"$tmp/$key.asc"
done
verdict 'six keys were made' [ "$(cat "$tmp"/*.asc | grep -c BEGIN)" -eq 6 ]

# --- a release -----------------------------------------------------------------------------------------------------

mkdir -p "$tmp/tree/linux-9.9.1/init"
printf 'VERSION = 9\n' >"$tmp/tree/linux-9.9.1/Makefile"
tar -C "$tmp/tree" -cf "$tmp/linux-9.9.1.tar" linux-9.9.1
xz --keep "$tmp/linux-9.9.1.tar"
# sign NAME KEY [GPG-OPTION…]: a detached signature over the uncompressed tar; prints its path.
sign() {
  local file=$tmp/$1.sign
  maker "${@:3}" --local-user "$2" --detach-sign --armor --output "$file" "$tmp/linux-9.9.1.tar" 2>/dev/null &&
    printf '%s\n' "$file"
}
good=$(sign good "$allowed" --digest-algo SHA256) || exit

# A key ring with these keys (and nothing else), the way the script makes one.
ring() {
  home=$tmp/ring
  rm -rf -- "$home" "$tmp/keys"
  mkdir -m 700 "$home"
  mkdir "$tmp/keys"
  local key
  for key in "$@"; do cp "$tmp/$key.asc" "$tmp/keys/"; done
  import_keys "$home" "$tmp/keys"
}
# unpack SIGNATURE [TARBALL [FINGERPRINT…]]
unpack() {
  local signature=$1 tarball=${2:-$tmp/linux-9.9.1.tar.xz}
  local fingerprints=("${@:3}")
  [ ${#fingerprints[@]} -gt 0 ] || fingerprints=("$allowed" "$second")
  rm -rf -- "$tmp/out"
  mkdir "$tmp/out"
  unpack_release "$home" "$tarball" "$signature" linux-9.9.1 "$tmp/out" "${fingerprints[@]}"
}
unpacked() { [ -f "$tmp/out/Makefile" ]; }
empty() { [ -z "$(find "$tmp/out" -mindepth 1)" ]; }
# stops NAME TEXT UNPACK-ARGUMENT…
stops() {
  refuses "$1" "$2" unpack "${@:3}"
  verdict "$1 (nothing was unpacked)" empty
}

ring "$allowed" "$second" "$stranger" "$lookalike" "$expired" "$revoked"
passes 'a good signature by an allowed key' unpack "$good"
verdict 'its content is there' unpacked
verdict 'the fingerprint is named' grep -qF "good, by $allowed" "$tmp/stderr"
by_second=$(sign by_second "$second!") || exit
passes 'a good signature by another allowed key' unpack "$by_second"
by_subkey=$(sign by_subkey "$subkey!") || exit
passes 'by a signing subkey of an allowed key' unpack "$by_subkey"
verdict 'its primary key is what counts' grep -qF "good, by $second" "$tmp/stderr"
stops 'a subkey is not allowed by its own fingerprint' 'none of the allowed' "$by_subkey" '' "$subkey"

by_stranger=$(sign by_stranger "$stranger") || exit
stops 'a good signature by another key' "by $stranger, which is none" "$by_stranger"
by_lookalike=$(sign by_lookalike "$lookalike") || exit
stops 'a key with the name of an allowed one' "by $lookalike, which is none" "$by_lookalike"
ring "$lookalike"
stops 'only the look-alike in the ring' "by $lookalike, which is none" "$by_lookalike"
stops 'only the look-alike in the ring, real signature' "public key is not in the key ring" "$good"
ring "$allowed" "$second" "$stranger" "$lookalike" "$expired" "$revoked"

by_expired=$(sign by_expired "$expired" --faked-system-time 20200301T000000) || exit
stops 'an expired key, although allowed' 'key has expired' "$by_expired" '' "$expired"
short_lived=$(sign short_lived "$allowed" --faked-system-time 20200301T000000 --default-sig-expire 1d) || exit
stops 'an expired signature' 'signature has expired' "$short_lived"
by_revoked=$(sign by_revoked "$revoked") || exit
sed 's/^:---/---/' "$makers/openpgp-revocs.d/$revoked.rev" >"$tmp/$revoked.rev.asc"
isolated_gpg "$home" --import "$tmp/$revoked.rev.asc" 2>/dev/null
stops 'a revoked key, although allowed' 'key was revoked' "$by_revoked" '' "$revoked"

printf 'changed' | cat "$tmp/linux-9.9.1.tar" - >"$tmp/changed.tar"
stops 'changed bytes' 'does not belong to these bytes' "$good" "$tmp/changed.tar"
maker --local-user "$allowed" --detach-sign --output "$tmp/other.sign" "$tmp/tree/linux-9.9.1/Makefile" 2>/dev/null
stops 'the signature of another file' 'does not belong to these bytes' "$tmp/other.sign"
stops 'no signature' 'there is no signature' "$tmp/missing.sign"
: >"$tmp/empty.sign"
stops 'an empty signature' 'there is no signature' "$tmp/empty.sign"
head -c 300 /dev/urandom >"$tmp/garbage.sign"
stops 'garbage for a signature' 'no detached signature' "$tmp/garbage.sign"
maker --local-user "$allowed" --sign --output "$tmp/inline.sign" "$tmp/linux-9.9.1.tar" 2>/dev/null
stops 'a signed message instead of a detached signature' 'REFUSED' "$tmp/inline.sign"
maker --local-user "$allowed" --local-user "$stranger" --detach-sign --output "$tmp/two.sign" "$tmp/linux-9.9.1.tar" 2>/dev/null
stops 'two signatures' 'holds 2 signatures' "$tmp/two.sign"
weak=$(sign weak "$allowed" --digest-algo SHA1) || exit
stops 'a signature over SHA-1' 'hash algorithm 2' "$weak"
text=$(sign text "$allowed" --textmode) || exit
stops 'a text-mode signature' 'class 01' "$text"
# Signed, but another release than the one asked for: what a server does that holds back fixes.
mv "$tmp/tree/linux-9.9.1" "$tmp/tree/linux-9.9.0"
tar -C "$tmp/tree" -cf "$tmp/older.tar" linux-9.9.0
maker --local-user "$allowed" --detach-sign --output "$tmp/older.sign" "$tmp/older.tar" 2>/dev/null
stops 'another release, truly signed' 'holds linux-9.9.0, not linux-9.9.1' "$tmp/older.sign" "$tmp/older.tar"
head -c 200 "$tmp/linux-9.9.1.tar.xz" >"$tmp/cut.tar.xz"
stops 'a cut download' 'cannot be decompressed' "$good" "$tmp/cut.tar.xz"
ring "$stranger"
stops 'the signer is not in the ring' 'public key is not in the key ring' "$good"

refuses 'no fingerprint at all' 'no allowed fingerprint' verify_release "$home" "$tmp/linux-9.9.1.tar" "$good"
refuses 'a short key id' 'not a full fingerprint' verify_release "$home" "$tmp/linux-9.9.1.tar" "$good" "${allowed:24}"
mkdir "$tmp/no-keys"
refuses 'an empty key directory' 'no *.asc' import_keys "$home" "$tmp/no-keys"

# --- the script itself: whatever ring it is given, only its own three fingerprints count ---------------------------

rm -rf -- "$tmp/keys" && mkdir "$tmp/keys"
greg=$(make_key 'Greg Kroah-Hartman <gregkh@kernel.org>' never "${past[@]}") || exit
maker --armor --export "$greg" >"$tmp/keys/gregkh.asc"
mkdir -p "$tmp/kernel/linux-6.12.1"
printf 'VERSION = 6\nPATCHLEVEL = 12\n' >"$tmp/kernel/linux-6.12.1/Makefile"
tar -C "$tmp/kernel" -cf "$tmp/linux-6.12.1.tar" linux-6.12.1
maker --local-user "$greg" --detach-sign --output "$tmp/linux-6.12.1.tar.sign" "$tmp/linux-6.12.1.tar" 2>/dev/null
allowed_by_environment=(env "signers=$greg" "SIGNERS=$greg" "GNUPGHOME=$makers")
if [ "$(uname -m)" = x86_64 ]; then
  refuses 'the script with a look-alike ring' "by $greg, which is none" "${allowed_by_environment[@]}" \
    "$repo/scripts/make-generic-kernel.sh" --source "$tmp/linux-6.12.1.tar" \
    --signature "$tmp/linux-6.12.1.tar.sign" --keyring-dir "$tmp/keys" --out "$tmp/built/out"
  verdict 'it says that nothing was built' grep -qF 'nothing will be built' "$tmp/stderr"
  verdict 'it left nothing' [ -z "$(find "$tmp/built" -mindepth 1 2>/dev/null)" ]
fi

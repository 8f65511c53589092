# shellcheck shell=bash
# Deciding whether a release tarball is what one of a given set of PGP keys signed. Sourced, never run.
#
# Keys may come from anywhere (a directory, the network): a key ring gives no trust. What counts is the full fingerprint
# of the primary key, and which fingerprints are allowed is an argument of the call, never an option, a file or an
# environment variable. scripts/make-generic-kernel.sh names its three as constants; the tests name their own.
# The caller has set `pipefail`.

# Prints why a signature is refused and what to do; always fails.
release_refused() {
  printf 'release signature: REFUSED: %s\n' "$1" >&2
  printf '  %s\n' "${@:2}" >&2
  return 1
}

# gpg with nothing of the user's in it: own home, no configuration files, no key look-ups of its own accord.
#   isolated_gpg HOME ARGUMENT…
isolated_gpg() {
  local home=$1
  shift
  env -u GNUPGHOME -u GPG_AGENT_INFO LC_ALL=C \
    gpg --homedir "$home" --no-options --batch --no-tty --quiet --no-auto-key-retrieve "$@"
}

# Imports every *.asc, *.gpg and *.pgp file of a directory.
#   import_keys HOME DIRECTORY
import_keys() {
  local home=$1 directory=$2 file count=0
  for file in "$directory"/*.asc "$directory"/*.gpg "$directory"/*.pgp; do
    [ -f "$file" ] || continue
    # A ring may hold keys gpg cannot use (old algorithms, no user id): those it could not take are not there later.
    isolated_gpg "$home" --no-auto-key-locate --import "$file" 2>/dev/null || true
    count=$((count + 1))
  done
  [ "$count" -gt 0 ] ||
    release_refused "no *.asc, *.gpg or *.pgp file in $directory" "put the signers' public keys there"
}

# Succeeds when SIGNATURE is one good, current, detached signature over the bytes of FILE, made by a key (or a signing
# subkey of a key) whose fingerprint is among the given ones; says who signed on stderr. Anything else fails: no
# signature, two of them, an expired or revoked key, an expired signature, a text-mode signature (it would not cover
# line ends), a broken hash, another key, whatever name that key carries.
#   verify_release HOME FILE SIGNATURE FINGERPRINT…
verify_release() {
  local home=$1 file=$2 signature=$3 allowed status gpg_status=0
  shift 3
  [ $# -gt 0 ] || {
    release_refused "no allowed fingerprint was given" "this is a mistake in the calling script"
    return
  }
  for allowed in "$@"; do
    [[ $allowed =~ ^[0-9A-F]{40}$ ]] || {
      release_refused "$allowed is not a full fingerprint" "write all 40 digits, in capitals, without blanks"
      return
    }
  done
  [ -f "$file" ] || {
    release_refused "there is no $file" "download it again"
    return
  }
  [ -s "$signature" ] || {
    release_refused "there is no signature $signature" "download the .tar.sign file that lies beside the tarball"
    return
  }

  # gpg's exit status alone is not enough: it is 0 for an expired key.
  status=$(isolated_gpg "$home" --no-auto-key-locate --trust-model always --status-fd 1 \
    --verify -- "$signature" "$file" 2>"$home/verify.log") || gpg_status=$?

  local verdicts=() valid=() prefix tag rest
  while read -r prefix tag rest; do
    [ "$prefix" = '[GNUPG:]' ] || continue
    case $tag in
      GOODSIG | BADSIG | ERRSIG | EXPSIG | EXPKEYSIG | REVKEYSIG) verdicts+=("$tag") ;;
      VALIDSIG) valid+=("$rest") ;;
    esac
  done <<<"$status"

  [ ${#verdicts[@]} -gt 0 ] || {
    release_refused "$signature holds no detached signature of $file" "gpg said: $(tail -n 1 "$home/verify.log")"
    return
  }
  [ ${#verdicts[@]} -eq 1 ] || {
    release_refused "$signature holds ${#verdicts[@]} signatures, one is expected" "download it again"
    return
  }
  local why
  case ${verdicts[0]} in
    GOODSIG) why= ;;
    BADSIG) why="the signature does not belong to these bytes: the tarball or the signature was changed" ;;
    ERRSIG) why="the signer's public key is not in the key ring" ;;
    EXPSIG) why="the signature has expired" ;;
    EXPKEYSIG) why="the signer's key has expired" ;;
    REVKEYSIG) why="the signer's key was revoked" ;;
  esac
  [ -z "$why" ] || {
    release_refused "$why" "get tarball, signature and keys again; if it stays so, do not build" \
      "gpg said: $(tail -n 1 "$home/verify.log")"
    return
  }
  if [ "$gpg_status" -ne 0 ] || [ ${#valid[@]} -ne 1 ]; then
    release_refused "gpg does not vouch for the signature (status $gpg_status)" \
      "gpg said: $(tail -n 1 "$home/verify.log")"
    return
  fi

  # VALIDSIG: signing key, date, timestamp, expiry, version, reserved, key algorithm, hash algorithm, class, primary key.
  local fields primary
  read -r -a fields <<<"${valid[0]}"
  primary=${fields[9]:-}
  case ${fields[7]:-} in
    8 | 9 | 10) ;; # SHA-256, SHA-384, SHA-512
    *)
      release_refused "the signature uses hash algorithm ${fields[7]:-unknown}, which can be forged" \
        "ask the signer for one with SHA-256 or better"
      return
      ;;
  esac
  [ "${fields[8]:-}" = 00 ] || {
    release_refused "the signature is of class ${fields[8]:-unknown}, not over the bytes as they are" \
      "ask the signer for a binary one"
    return
  }
  for allowed in "$@"; do
    if [ "$primary" = "$allowed" ]; then
      printf 'release signature: good, by %s\n' "$primary" >&2
      return 0
    fi
  done
  release_refused "good signature, but by $primary, which is none of the allowed keys" \
    "a name in a key proves nothing; if the signers really changed keys, change the fingerprints in the script"
}

# Unpacks a compressed release tarball into the empty DIRECTORY, but only after its signature (which covers the
# *uncompressed* tar) was verified, and only when its one top directory is called TOP. The bytes that are verified are
# the bytes that are unpacked: the tar lies in the private HOME in between.
#   unpack_release HOME TARBALL SIGNATURE TOP DIRECTORY FINGERPRINT…
unpack_release() {
  local home=$1 tarball=$2 signature=$3 top=$4 directory=$5
  shift 5
  decompress "$tarball" >"$home/release.tar" || {
    release_refused "$tarball cannot be decompressed, or to more than 4 GiB" "download it again"
    return
  }
  verify_release "$home" "$home/release.tar" "$signature" "$@" || return
  # A valid signature of another release is no proof that this is the release that was asked for.
  local first
  first=$(tar --list --file "$home/release.tar" 2>/dev/null | head -n 1) || true
  [ "${first%%/*}" = "$top" ] || {
    release_refused "the signed tarball holds ${first%%/*}, not $top" "the server gave another release: download it again"
    return
  }
  unpack_tar "$home/release.tar" "$directory" || return
  rm -f "$home/release.tar"
}

# The content of a file by its name's ending, on stdout; stops after 4 GiB, before a bomb has filled the disk.
#   decompress FILE
decompress() {
  local limit=$((4 << 30)) tool
  case $1 in
    *.tar) tool=(cat --) ;;
    *.xz) tool=(xz --decompress --stdout --) ;;
    *.gz) tool=(gzip --decompress --stdout --) ;;
    *.zst) tool=(zstd --quiet --decompress --stdout --) ;;
    *)
      printf '%s: not a .tar, .tar.xz, .tar.gz or .tar.zst\n' "$1" >&2
      return 1
      ;;
  esac
  # The pipe fails when the tool fails, and also when head closes it early on something too large.
  "${tool[@]}" "$1" | head --bytes="$limit"
}

# Unpacks a tar without its top directory, as files of the caller.
#   unpack_tar TAR DIRECTORY
unpack_tar() {
  tar --extract --file "$1" --directory "$2" --strip-components=1 --no-same-owner --no-same-permissions
}

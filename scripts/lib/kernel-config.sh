# shellcheck shell=bash
# Reading kernel configurations. Sourced, never run.

# The configuration in FILE (a .config, or one compressed with gzip, as /proc/config.gz is), on stdout.
#   config_text FILE
config_text() {
  case $1 in
    *.gz) gzip --decompress --stdout -- "$1" ;;
    *) cat -- "$1" ;;
  esac
}

# Prints one line for each option that the fragment asks for and RESULT does not have with that very value; fails when
# there is one. An option that the fragment wants off may be absent from RESULT altogether.
#   missing_options FRAGMENT RESULT
missing_options() {
  awk '
    function option(line) { sub(/^# /, "", line); sub(/[= ].*/, "", line); return line }
    function value(line) { return line ~ / is not set$/ ? "off" : substr(line, index(line, "=") + 1) }
    !/^CONFIG_[A-Za-z0-9_]+=/ && !/^# CONFIG_[A-Za-z0-9_]+ is not set$/ { next }
    FILENAME == ARGV[1] { have[option($0)] = value($0); next }
    {
      name = option($0)
      found = (name in have) ? have[name] : "off"
      if (found != value($0)) { printf "%s: asked for %s, got %s\n", name, value($0), found; bad = 1 }
    }
    END { exit bad }
  ' "$2" "$1"
}

#!/bin/sh
# Writes the secrets a new installation needs, once: what is there already stays as it is.
# A file is read by its owner and its group alone, and appears whole or not at all.
set -eu
folder=${1:-/secrets}

random() { python3.11 -c "import secrets; print(secrets.token_$1, end='')"; }

write() { # FILE PREFIX
  if [ -e "$folder/$1" ]; then
    echo "$1: there already"
    return
  fi
  (umask 0337 && printf %s "$2$(random 'urlsafe(32)')" >"$folder/$1.$$")
  ln "$folder/$1.$$" "$folder/$1" # unlike mv, never over a file that somebody else wrote meanwhile
  rm -f "$folder/$1.$$"
  echo "$1: written"
}

write database/password ''
write ray/token ''
write api-key/first "fk_$(random 'hex(6)')_"

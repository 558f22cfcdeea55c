#!/bin/sh
# Installs what the tests need from Debian or Ubuntu, where it is missing; starts no service.
set -eu

PACKAGES="slurm-wlm slurm-wlm-basic-plugins slurmdbd slurm-wlm-mysql-plugin munge mariadb-server"
PROGRAMS="slurmctld slurmd slurmdbd munged mariadbd mariadb-install-db"

missing=
for program in $PROGRAMS; do
  command -v "$program" > /dev/null || missing="$missing $program"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
  echo "test-slurm: not found:$missing; install, as root on Debian or Ubuntu: $PACKAGES" >&2
  exit 1
fi

# Packages would start their daemons with the settings of the machine.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' > "$policy"
  chmod +x "$policy"
fi
echo "== Packages: $PACKAGES"
apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $PACKAGES > /dev/null

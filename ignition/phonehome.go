package ignition

import (
	"fmt"
	"strings"
)

// phoneHomePath is where the script is: below /etc, as /usr can't be written to
// on the systems that this is for.
const phoneHomePath = "/etc/bedplate/phone-home"

// phoneHomeUnit calls home once, at the end of the first boot: when everything
// that the multi-user target wants has been started. It is done when the mark
// is there, so a server that is away for the first boot hears at the next one.
const phoneHomeUnit = `[Unit]
Description=Tell Bedplate that the first boot is done
ConditionPathExists=!/etc/bedplate/phoned-home
Wants=network-online.target
After=network-online.target sshd.service ssh.service sshd.socket ssh.socket sshd-keygen.target

[Service]
Type=oneshot
ExecStart=/bin/sh ` + phoneHomePath + `
TimeoutStartSec=15min

[Install]
WantedBy=multi-user.target
`

// phoneHomeScript reports by whichever of curl, wget and Python there is: Flatcar
// and Fedora CoreOS have curl, small Debian images have none of the first two.
func phoneHomeScript(url, instanceID string) []byte {
	return fmt.Appendf(nil, `#!/bin/sh
# Bedplate: tells the server that the first boot is done.
url=%s
instance=%s
host=$(uname -n)
call() {
    if command -v curl >/dev/null 2>&1; then
        curl --silent --show-error --fail --max-time 20 --data-urlencode "instance_id=$instance" --data-urlencode "hostname=$host" "$url"
    elif command -v wget >/dev/null 2>&1; then
        wget -q -T 20 -O - --post-data "instance_id=$instance&hostname=$host" "$url"
    else
        python3 -c 'import sys, urllib.parse, urllib.request
urllib.request.urlopen(sys.argv[1], urllib.parse.urlencode({"instance_id": sys.argv[2], "hostname": sys.argv[3]}).encode(), timeout=20).read()' "$url" "$instance" "$host"
    fi
}
for attempt in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    if call; then
        : >/etc/bedplate/phoned-home
        exit 0
    fi
    sleep 5
done
exit 1
`, shellWord(url), shellWord(instanceID))
}

// shellWord quotes s for sh (POSIX.1-2017, Shell 2.2.2).
func shellWord(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

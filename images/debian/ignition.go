package debian

// ignitionFlag is there until Ignition has run, as on Fedora CoreOS, where the
// configuration is beside it.
const ignitionFlag = "boot/ignition.firstboot"

// ignitionEarly are the files that have initramfs-tools run Ignition as the
// dracut module of Debian's package does: its stages, in order, between the
// mount of the root and its use. The configuration is where Fedora CoreOS's
// dracut module (fedora-coreos-config, 35coreos-ignition) takes it from.
var ignitionEarly = map[string]string{
	"etc/initramfs-tools/hooks/ignition": `#!/bin/sh
# Puts Ignition and what it runs into the initramfs.
[ "$1" = prereqs ] && exit 0
. /usr/share/initramfs-tools/hook-functions
module=/usr/lib/dracut/modules.d/30ignition
copy_exec $module/ignition /usr/bin/ignition
copy_file script $module/ignition-kargs-helper.sh /usr/sbin/ignition-kargs-helper
for program in /usr/sbin/useradd /usr/sbin/usermod /usr/sbin/userdel /usr/sbin/groupadd /usr/sbin/groupdel /usr/bin/lsblk /usr/bin/udevadm; do
    copy_exec $program
done
# useradd enters the root, and looks names up there, with the libraries it began with.
for lib in /lib/*/libnss_files.so.* /usr/lib/*/security/pam_permit.so; do
    [ ! -e "$lib" ] || copy_exec "$lib"
done
# Debian's build labels what it wrote (setfiles) whether there is SELinux or not.
# There is none in this image, so there is nothing to do.
printf '#!/bin/sh\nexit 0\n' >"$DESTDIR/usr/sbin/setfiles"
chmod 755 "$DESTDIR/usr/sbin/setfiles"
exit 0
`,
	"etc/initramfs-tools/scripts/init-bottom/ignition": `#!/bin/sh
# Runs Ignition at the first boot, on the root that is mounted already. There is
# nothing but klibc's programs here: no cp, no rm, no tail.
[ "$1" = prereqs ] && exit 0
. /scripts/functions
flag=${rootmnt}/boot/ignition.firstboot
[ -e "$flag" ] || exit 0
mount -o remount,rw none "${rootmnt}" || panic "Ignition: the root can't be written to"
mkdir -p /usr/lib/ignition /run/ignition
if [ -e "${rootmnt}/boot/ignition/config.ign" ]; then
    cat "${rootmnt}/boot/ignition/config.ign" >/usr/lib/ignition/user.ign
fi
for stage in fetch-offline fetch kargs disks mount files umount; do
    log_begin_msg "Ignition: $stage"
    ignition --root="${rootmnt}" --platform=metal --stage=$stage --log-to-stdout >/run/ignition/$stage.log 2>&1 || {
        cat /run/ignition/$stage.log
        panic "Ignition: $stage failed"
    }
    log_end_msg
done
nuke "$flag"
sync
exit 0
`,
}

// ignitionOwn are files of an image without cloud-init: it asks DHCP on every
// port that has a link, and makes its host keys itself.
var ignitionOwn = map[string]string{
	ignitionFlag: "",
	// Debian's Ignition reads it for the policy to label by, and fails without one.
	"etc/selinux/config": "SELINUX=disabled\nSELINUXTYPE=targeted\n",
	// Debian's Ignition writes keys there, as on Fedora CoreOS.
	"etc/ssh/sshd_config.d/20-ignition.conf":            "AuthorizedKeysFile .ssh/authorized_keys .ssh/authorized_keys.d/ignition\n",
	"etc/systemd/network/90-dhcp.network":               "[Match]\nType=ether\n\n[Network]\nDHCP=yes\n",
	"etc/systemd/system/ssh.service.d/10-hostkeys.conf": "[Service]\nExecStartPre=\nExecStartPre=/usr/bin/ssh-keygen -A\nExecStartPre=/usr/sbin/sshd -t\n",
}

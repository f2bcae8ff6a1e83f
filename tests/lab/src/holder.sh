# Process 1 of a lab host: makes the host's file system, says "ready PID", and holds the namespaces until its
# standard input closes (which is when the lab's owner ends, however it ends), or for ever when the lab stays.
set -eu
read -r outer_pid _ < /proc/self/stat
root=$LAB_DISK/root
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$LAB_ENGINE,upperdir=$LAB_DISK/upper,workdir=$LAB_DISK/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=755 tmpfs "$root/run"

# The control groups as seen from the host's own group.
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
else
    mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
    while read -r _ dir kind options _; do
        case $kind in cgroup | cgroup2) ;; *) continue ;; esac
        case $dir in /sys/fs/cgroup/*) ;; *) continue ;; esac
        mkdir "$root$dir"
        case $kind,$options in
        cgroup2,*) mount -t cgroup2 cgroup2 "$root$dir" ;;
        *name=systemd*) mount -t cgroup -o none,name=systemd cgroup "$root$dir" ;;
        *) mount -t cgroup -o "${dir##*/}" cgroup "$root$dir" ;;
        esac
    done < /proc/mounts
    # Some distributions have a link for each controller of a joint hierarchy.
    for link in /sys/fs/cgroup/*; do
        if [ -L "$link" ]; then cp -P "$link" "$root/sys/fs/cgroup/"; fi
    done
fi

mkdir -p "$root/var/lib/docker" "$root/lab" "$root/lib/modules" "$root/.old"
mount --bind "$LAB_DISK/data" "$root/var/lib/docker"
mount --rbind "$LAB_SHARE" "$root/lab"
if [ -d /lib/modules ]; then mount --bind /lib/modules "$root/lib/modules"; fi
printf '127.0.0.1 localhost\n::1 localhost\n127.0.1.1 %s\n' "$LAB_NAME" > "$root/etc/hosts"
# No resolver: a look-up fails at once instead of waiting for one that the host cannot reach.
: > "$root/etc/resolv.conf"
echo "$LAB_NAME" > "$root/etc/hostname"

cd "$root"
pivot_root . .old
cd /
umount -l /.old
rmdir /.old
# As systemd has it: plugins bind directories of the host that later mounts must reach.
mount --make-rshared /
mkdir -p /run/docker/plugins /run/docker/netns
hostname "$LAB_NAME"
ip link set lo up
echo "ready $outer_pid"
# A child in the foreground, so that the shell goes on collecting the orphans that end.
if [ "$LAB_STAYS" = yes ]; then sleep infinity; else cat > /dev/null; fi

package disk

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Users returns what uses a disk or any of its partitions: mounts, swap,
// holders such as LVM and RAID. sys and proc are where those are mounted.
func Users(sys, proc, path string) ([]string, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, fmt.Errorf("asking about %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return nil, nil
	}
	names, err := namesOf(sys, fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)))
	if err != nil {
		return nil, err
	}
	var users []string
	for _, u := range []func() ([]string, error){
		func() ([]string, error) { return mounts(proc, names) },
		func() ([]string, error) { return swaps(proc, names) },
		func() ([]string, error) { return holders(sys, names) },
	} {
		more, err := u()
		if err != nil {
			return nil, err
		}
		users = append(users, more...)
	}
	return users, nil
}

// namesOf returns the kernel names, by number, of a disk and its partitions.
func namesOf(sys, number string) (map[string]string, error) {
	dir, err := filepath.EvalSymlinks(filepath.Join(sys, "dev/block", number))
	if err != nil {
		return nil, fmt.Errorf("finding block device %s in sysfs: %w", number, err)
	}
	names := map[string]string{number: filepath.Base(dir)}
	parts, err := filepath.Glob(filepath.Join(dir, "*", "partition"))
	if err != nil {
		return nil, err
	}
	for _, p := range parts {
		b, err := os.ReadFile(filepath.Join(filepath.Dir(p), "dev"))
		if err != nil {
			return nil, fmt.Errorf("reading a partition's number: %w", err)
		}
		names[strings.TrimSpace(string(b))] = filepath.Base(filepath.Dir(p))
	}
	return names, nil
}

func mounts(proc string, names map[string]string) ([]string, error) {
	var out []string
	err := eachLine(filepath.Join(proc, "self/mountinfo"), func(f []string) {
		if len(f) > 4 && names[f[2]] != "" {
			out = append(out, fmt.Sprintf("%s is mounted at %s", names[f[2]], f[4]))
		}
	})
	return out, err
}

func swaps(proc string, names map[string]string) ([]string, error) {
	var out []string
	err := eachLine(filepath.Join(proc, "swaps"), func(f []string) {
		for _, name := range names {
			if len(f) > 0 && f[0] == "/dev/"+name {
				out = append(out, name+" is in use as swap")
			}
		}
	})
	if os.IsNotExist(err) { // A kernel without swap.
		return nil, nil
	}
	return out, err
}

func holders(sys string, names map[string]string) ([]string, error) {
	var out []string
	for number, name := range names {
		held, err := filepath.Glob(filepath.Join(sys, "dev/block", number, "holders/*"))
		if err != nil {
			return nil, err
		}
		for _, h := range held {
			out = append(out, name+" is held by "+filepath.Base(h))
		}
	}
	return out, nil
}

func eachLine(path string, line func(fields []string)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		line(strings.Fields(s.Text()))
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}

// usersHint explains a busy disk where that can be found out.
func usersHint(path string) string {
	users, err := Users("/sys", "/proc", path)
	if err != nil || len(users) == 0 {
		return ""
	}
	return " (" + strings.Join(users, "; ") + ")"
}

package agentos

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// shellFile is where the shell for rescue lies in the archive: in no path, and
// without the names by which anything would start it.
const shellFile = "usr/lib/bedplate/busybox"

// errShell says what to do about a shell that can't be used.
var errShell = errors.New("the shell for rescue must be a static busybox (apt-get install busybox-static)")

// addShell puts busybox into the archive, for the action rescue.ssh alone.
func (c Config) addShell(t *tree) error {
	b, err := os.ReadFile(c.Shell)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", errShell, err)
	}
	if err != nil {
		return fmt.Errorf("adding the shell for rescue: %w", err)
	}
	n, err := neededBy(c.Shell)
	if err != nil {
		return err
	}
	if n.interpreter != "" || len(n.libraries) > 0 {
		return fmt.Errorf("%w: %s needs libraries", errShell, c.Shell)
	}
	t.file(shellFile, 0o755, b)
	return nil
}

package iso

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/bedplate/bedplate/images/agentos"
)

// Part is what makes the medium one machine's: Script is what GRUB is to do,
// Archive the second initramfs.
type Part struct {
	Script, Archive []byte
}

// Image is the finished medium in a folder.
type Image struct {
	dir      string
	modified time.Time
	Manifest
}

// Load returns the medium in a folder, which must be of the agent's system that
// is beside it now. Its errors wrap ErrMissing and say what to do.
func Load(dir string) (Image, error) {
	m, err := readManifest(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Image{}, fmt.Errorf("there is no boot medium in %s: %w", dir, ErrMissing)
	case errors.Is(err, ErrMissing):
		return Image{}, err
	case err != nil:
		return Image{}, fmt.Errorf("%w: %w", err, ErrMissing)
	}
	system, err := agentos.ReadManifest(dir)
	if err != nil {
		return Image{}, fmt.Errorf("%w: %w", err, ErrMissing)
	}
	if digests(system) != m.System {
		return Image{}, fmt.Errorf("the boot medium in %s is of another build of the agent's system: %w", dir, ErrMissing)
	}
	info, err := os.Stat(filepath.Join(dir, ImageFile))
	if err != nil {
		return Image{}, fmt.Errorf("there is no boot medium in %s: %w", dir, ErrMissing)
	}
	return Image{dir: dir, modified: info.ModTime(), Manifest: m}, nil
}

// Medium is one machine's image, to be read and closed.
type Medium struct {
	*Splice
	file *os.File
}

// Close closes the image.
func (m *Medium) Close() error { return m.file.Close() }

// Open returns the machine's image, unless it was built anew since Load. The parts are held in memory, 72 KiB; the
// rest is read from the file as it is asked for.
func (i Image) Open(p Part) (*Medium, error) {
	script, err := padScript(p.Script)
	if err != nil {
		return nil, err
	}
	archive, err := padArchive(p.Archive)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(i.dir, ImageFile))
	if err != nil {
		return nil, fmt.Errorf("opening the boot medium: %w: %w", err, ErrMissing)
	}
	info, err := f.Stat()
	if err == nil && (info.Size() != i.Image.Size || !info.ModTime().Equal(i.modified)) {
		err = fmt.Errorf("it is not the one that its manifest describes: %w", ErrMissing)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the boot medium: %w", err), f.Close())
	}
	s, err := NewSplice(f, info.Size(), Patch{i.Script.Offset, script}, Patch{i.Archive.Offset, archive})
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Medium{Splice: s, file: f}, nil
}

// Check says whether a part fits, without opening anything.
func Check(p Part) error {
	_, err1 := padScript(p.Script)
	_, err2 := padArchive(p.Archive)
	return errors.Join(err1, err2)
}

var _ io.ReadSeekCloser = (*Medium)(nil)

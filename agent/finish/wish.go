package finish

import (
	"fmt"
	"os"
	"strconv"

	"github.com/bedplate/bedplate/agent/disk"
	"github.com/bedplate/bedplate/agent/disk/input"
)

// wish is the image's data, read.
type wish struct {
	rootPartition            int
	grow, machineID, hostKey bool
	files                    []wishFile
	args                     []string
	entry                    *wishEntry
}

type wishFile struct {
	partition, path, source, content, make string
	mode                                   uint32
}

type wishEntry struct {
	label, loader string
	fallback      bool
}

// wishOf reads what the server says of an image.
func wishOf(facts map[string]any) (wish, error) {
	w := wish{rootPartition: int(input.Of(facts).Int("root_partition", 0))}
	m, _ := facts["finish"].(map[string]any)
	in := input.Of(m)
	w.grow, w.machineID, w.hostKey = in.Bool("grow"), in.Bool("reset_machine_id"), in.Bool("remove_ssh_host_keys")
	w.args = in.Strings("kernel_arguments")
	for _, f := range in.Maps("files") {
		one, err := fileOf(f)
		if err != nil {
			return w, err
		}
		w.files = append(w.files, one)
	}
	if e, ok := in.Value("boot_entry").(map[string]any); ok {
		e := input.Of(e)
		w.entry = &wishEntry{label: e.String("label"), loader: e.String("loader"), fallback: e.Bool("fallback")}
		if err := e.Known(); err != nil {
			return w, err
		}
	}
	return w, in.Known()
}

func fileOf(in *input.Reader) (wishFile, error) {
	f := wishFile{
		partition: in.String("partition"), path: in.Required("path"), source: in.String("source"),
		content: in.String("content"), make: in.String("make"), mode: 0o644,
	}
	if f.partition == "" {
		f.partition = disk.Root
	}
	if f.source != "" {
		f.mode = 0o600
	}
	if text := in.String("mode"); text != "" {
		n, err := strconv.ParseUint(text, 8, 12)
		if err != nil {
			return f, fmt.Errorf("mode %q of %s is not octal", text, f.path)
		}
		f.mode = uint32(n)
	}
	return f, in.Known()
}

// wordsOf are what texts of an image may ask for.
func wordsOf(server map[string]string) map[string]string {
	return map[string]string{
		"ignition_url": server["ignition_url"], "talos_url": server["talos_url"], "metadata_url": server["metadata_url"],
	}
}

// expand puts URLs and kernel arguments in for ${…}. Other ${…} stay: they are
// the boot loader's own.
func (r *run) expand(text string) (string, error) {
	var err error
	out := os.Expand(text, func(name string) string {
		v, ok := r.words[name]
		if !ok {
			return "${" + name + "}"
		}
		if v == "" && name != "kernel_arguments" && err == nil {
			err = fmt.Errorf("there is no %s: the workflow installs no instance", name)
		}
		return v
	})
	return out, err
}

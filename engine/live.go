package engine

import (
	"fmt"
	"os"
	"strings"

	"github.com/bedplate/bedplate/ipxe"
	"github.com/bedplate/bedplate/ipxe/script"
	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// liveScript is the system that the instance on a machine runs in memory. A
// machine without an instance, or whose image is for disks, has none.
func (e *Engine) liveScript(m machine.Machine, base string) (script.Live, bool, error) {
	i, ok := e.documents.instance(m.Instance)
	if !ok {
		return script.Live{}, false, nil
	}
	image, ok := e.catalogue.get(i.GetSpec().GetImage())
	if !ok || image.GetSpec().GetLive() == nil {
		return script.Live{}, false, nil
	}
	l, err := e.live(image, i, m, base)
	return l, err == nil, err
}

// live makes the boot of a live image for one instance.
func (e *Engine) live(image *pb.Image, i *pb.Instance, m machine.Machine, base string) (l script.Live, err error) {
	spec := image.GetSpec().GetLive()
	l.Image = image.GetMetadata().GetName()
	if l.KernelURL, err = e.liveFile(spec.GetKernel(), base); err != nil {
		return l, fmt.Errorf("spec.live.kernel of image %s: %w", l.Image, err)
	}
	for n, name := range spec.GetInitramfs() {
		u, err := e.liveFile(name, base)
		if err != nil {
			return l, fmt.Errorf("spec.live.initramfs[%d] of image %s: %w", n, l.Image, err)
		}
		l.InitramfsURLs = append(l.InitramfsURLs, u)
	}
	words := e.liveWords(i, m, base)
	if spec.GetRootfs() != "" {
		if words["rootfs_url"], err = e.liveFile(spec.GetRootfs(), base); err != nil {
			return l, fmt.Errorf("spec.live.rootfs of image %s: %w", l.Image, err)
		}
	}
	for _, arg := range spec.GetKernelArguments() {
		text, err := expandWords(arg, words)
		if err != nil {
			return l, fmt.Errorf("spec.live.kernel_arguments of image %s: %w", l.Image, err)
		}
		l.Args = append(l.Args, text)
	}
	l.Args = append(l.Args, i.GetSpec().GetKernelArguments()...)
	return l, nil
}

// liveFile is where a part of a live image is fetched: an Image's content, the
// URL that an Image has, or a URL.
func (e *Engine) liveFile(ref, base string) (string, error) {
	if strings.Contains(ref, "://") {
		if e.signatures.all {
			return "", fmt.Errorf("%s is a URL, where nothing says whose it is, and %s: import it, and name the image", ref, e.signatures.why())
		}
		return ref, nil
	}
	image, ok := e.catalogue.get(ref)
	if ok {
		if err := e.signatures.allow(image); err != nil {
			return "", err
		}
	}
	switch {
	case !ok:
		return "", fmt.Errorf("there is no image %s: import it with `bedplate image import %s --file … --configuration none`", ref, ref)
	case image.GetStatus().GetDigest() != "":
		return base + "/images/" + ref, nil
	case image.GetSpec().GetUrl() != "":
		return image.GetSpec().GetUrl(), nil
	}
	return "", fmt.Errorf("image %s has neither a URL nor content: import it with `bedplate image import %s --file …`", ref, ref)
}

// liveWords are what ${…} of kernel arguments stands for.
func (e *Engine) liveWords(i *pb.Instance, m machine.Machine, base string) map[string]string {
	key := e.key.MetadataKey(i.GetMetadata().GetName(), i.GetMetadata().GetUid())
	return map[string]string{
		"ignition_url": base + "/ignition/" + key + "/config.ign",
		"talos_url":    base + "/talos/" + key + "/config.yaml",
		"metadata_url": base + "/nocloud/" + key + "/",
		"hostname":     e.documents.document(i, m).Hostname,
	}
}

func expandWords(text string, words map[string]string) (string, error) {
	var err error
	out := os.Expand(text, func(name string) string {
		v, ok := words[name]
		if !ok && err == nil {
			err = fmt.Errorf("%q: there is no ${%s} here", text, name)
		}
		return v
	})
	return out, err
}

// liveFacts are what boot.kexec starts for the instance on a machine; without
// one, or with several initramfs archives, nothing.
func (e *Engine) liveFacts(image *pb.Image, m *pb.Machine) (map[string]any, error) {
	none := map[string]any{"kernel_url": "", "initramfs_url": "", "command_line": ""}
	i, ok := e.documents.instance(m.GetStatus().GetInstance())
	if image.GetSpec().GetLive() == nil || !ok {
		return none, nil
	}
	v := machineValue(m)
	l, err := e.live(image, i, v, e.baseFor(m))
	if err != nil {
		return nil, err
	}
	if len(l.InitramfsURLs) != 1 {
		return none, nil
	}
	return map[string]any{
		"kernel_url": l.KernelURL, "initramfs_url": l.InitramfsURLs[0],
		"command_line": strings.Join(append(ipxe.ConsoleArgs(v.Console), l.Args...), " "),
	}, nil
}

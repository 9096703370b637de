package resource

import (
	"errors"
	"strings"

	"github.com/bedplate/bedplate/ignition"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/talos"
)

// checkConfiguration looks at what an instance's system is to be told.
func checkConfiguration(s *pb.InstanceSpec, errs *FieldErrors) {
	if s.GetIgnition() != "" {
		_, _, err := ignition.Compile(s.GetIgnition())
		var problems ignition.Problems
		if errors.As(err, &problems) {
			errs.add("spec.ignition", "%s", problems[0])
		} else if err != nil {
			errs.add("spec.ignition", "%v", err)
		}
	}
	checkTalos(s.GetTalos(), errs)
	for i, arg := range s.GetKernelArguments() {
		checkKernelArgument(joinIndex("spec.kernel_arguments", i), arg, errs)
	}
}

func checkTalos(s *pb.InstanceTalos, errs *FieldErrors) {
	if s.GetConfig() == "" {
		return // missing, which the rules say
	}
	err := talos.Check(s.GetConfig(), s.GetPatches())
	var patch *talos.PatchError
	if errors.As(err, &patch) {
		errs.add(joinIndex("spec.talos.patches", patch.Index), "%v", patch.Err)
	} else if err != nil {
		errs.add("spec.talos.config", "%v", err)
	}
}

// checkKernelArgument refuses what would become two arguments, or none: the
// boot loader's own quoting is not guessed at.
func checkKernelArgument(path, arg string, errs *FieldErrors) {
	for _, r := range arg {
		if r < 0x20 || r > 0x7e {
			errs.add(path, "%q: characters other than printable ASCII", arg)
			return
		}
	}
	name, value, _ := strings.Cut(arg, "=")
	switch {
	case name == "" || strings.ContainsAny(name, ` "'`):
		errs.add(path, "%q: not `name` or `name=value`; give each argument as an item of its own", arg)
	case strings.ContainsAny(value, `"'`):
		errs.add(path, "%q: without quotes; a value with blanks is quoted by itself", arg)
	}
}

// checkFinish looks at what is put right on an image's disk.
func checkFinish(s *pb.ImageFinish, errs *FieldErrors) {
	for i, f := range s.GetFiles() {
		path := joinIndex("spec.finish.files", i)
		if (f.GetSource() == "") == (f.GetContent() == "") {
			errs.add(path+".source", "give either `source` or `content`")
		}
		if strings.HasSuffix(f.GetPath(), "/") {
			errs.add(path+".path", "%q: names a folder", f.GetPath())
		}
	}
	for i, arg := range s.GetKernelArguments() {
		checkKernelArgument(joinIndex("spec.finish.kernel_arguments", i), arg, errs)
	}
	if l := s.GetBootEntry().GetLoader(); l != "" && !strings.HasPrefix(l, "/") && !strings.HasPrefix(l, `\`) {
		errs.add("spec.finish.boot_entry.loader", "%q: not a path from the top of the EFI system partition", l)
	}
}

// checkLive looks at what a live image names.
func checkLive(s *pb.ImageSpec, errs *FieldErrors) {
	l := s.GetLive()
	if l == nil {
		return
	}
	if s.GetUrl() != "" {
		errs.add("spec.url", "a live system has no disk image: give its files in spec.live")
	}
	part := func(path, ref string) {
		if strings.Contains(ref, "://") {
			checkURL(path, ref, errs)
			return
		}
		checkReference(path, ref, errs)
	}
	part("spec.live.kernel", l.GetKernel())
	part("spec.live.rootfs", l.GetRootfs())
	for i, ref := range l.GetInitramfs() {
		part(joinIndex("spec.live.initramfs", i), ref)
	}
	for i, arg := range l.GetKernelArguments() {
		checkKernelArgument(joinIndex("spec.live.kernel_arguments", i), arg, errs)
	}
}

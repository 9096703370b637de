package container

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/bedplate/bedplate/agent/command"
	"github.com/bedplate/bedplate/agent/step"
)

// spec is what Init is told.
type spec struct {
	Root       string   `json:"root"`
	Args       []string `json:"args"`
	Env        []string `json:"env"`
	Dir        string   `json:"dir"`
	User       string   `json:"user"`
	Privileged bool     `json:"privileged"`
	Mounts     []Mount  `json:"mounts"`
}

// newSpec puts together what the image and the step say.
func newSpec(image *v1.ConfigFile, opts options, req step.Request, rootfs string) (spec, error) {
	c := image.Config
	s := spec{Root: rootfs, User: c.User, Privileged: opts.privileged, Mounts: opts.mounts}
	switch {
	case len(req.Entrypoint) > 0: // the image's own arguments were for its own entry point
		s.Args = append(slices.Clone(req.Entrypoint), req.Args...)
	case len(req.Args) > 0:
		s.Args = append(slices.Clone(c.Entrypoint), req.Args...)
	default:
		s.Args = append(slices.Clone(c.Entrypoint), c.Cmd...)
	}
	if len(s.Args) == 0 {
		return s, fmt.Errorf("image %s names no program; give the step entrypoint or args", req.Image)
	}
	s.Dir = path.Clean("/" + c.WorkingDir)
	if opts.workdir != "" {
		s.Dir = path.Clean("/" + opts.workdir)
	}
	env := map[string]string{"PATH": command.Path, "TERM": "linux"}
	for _, kv := range c.Env {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	maps.Copy(env, req.Env)
	for _, k := range slices.Sorted(maps.Keys(env)) {
		s.Env = append(s.Env, k+"="+env[k])
	}
	return s, nil
}

// file hands the spec over in a file without a name.
func (s spec) file() (*os.File, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("writing container's spec: %w", err)
	}
	f, err := memory("spec")
	if err != nil {
		return nil, err
	}
	if _, err = f.Write(b); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("writing container's spec: %w", err)
	}
	return f, nil
}

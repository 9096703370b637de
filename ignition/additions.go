package ignition

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/coreos/ignition/v2/config/util"
	"github.com/coreos/ignition/v2/config/v3_3"
	"github.com/coreos/ignition/v2/config/v3_3/types"
	"github.com/coreos/ignition/v2/config/v3_4"
	"github.com/coreos/ignition/v2/config/v3_5"
)

// File is one that the system is to have.
type File struct {
	// Path is absolute.
	Path    string
	Content []byte
	// Mode has permission bits alone; 0: 0644.
	Mode uint32
}

// Additions is what Bedplate has to tell a system.
type Additions struct {
	// Hostname becomes /etc/hostname; empty: none.
	Hostname string
	// User gets SSHKeys; empty: core, as Flatcar and Fedora CoreOS have it.
	User    string
	SSHKeys []string
	// Files are written as they are, those that the image has are replaced.
	Files []File
	// KernelArguments are those that the system is to boot with, each `name` or `name=value`.
	KernelArguments []string
	// PhoneHomeURL is called by a unit of ours at the end of the first boot;
	// empty: no such unit. InstanceID is sent with it.
	PhoneHomeURL, InstanceID string
}

// DefaultUser is the user that systems configured by Ignition come with.
const DefaultUser = "core"

// Join returns the Ignition JSON for a machine: the user's text (Butane or
// Ignition; empty: none) on top of what Bedplate adds. The error of a text that
// is not right is Problems.
func Join(text string, add Additions) ([]byte, error) {
	ours, err := json.Marshal(add.config())
	if err != nil {
		return nil, fmt.Errorf("writing what is added: %w", err)
	}
	if rep, err := check(ours); err != nil {
		return nil, fmt.Errorf("checking what is added: %w: %s", err, rep)
	}
	if strings.TrimSpace(text) == "" {
		return ours, nil
	}
	theirs, _, err := Compile(text)
	if err != nil {
		return nil, err
	}
	joined, err := join(ours, theirs)
	if err != nil {
		return nil, fmt.Errorf("joining the configuration with what is added: %w", err)
	}
	if rep, err := check(joined); err != nil {
		return nil, fmt.Errorf("the configuration doesn't go with what is added: %w: %s", err, strings.TrimSpace(rep.String()))
	}
	return joined, nil
}

// join lays theirs on ours, in the version of theirs but at least the oldest.
func join(ours, theirs []byte) ([]byte, error) {
	m, err := minor(theirs)
	if err != nil {
		return nil, err
	}
	switch m {
	case 4:
		a, _, errA := v3_4.ParseCompatibleVersion(ours)
		b, _, errB := v3_4.ParseCompatibleVersion(theirs)
		return marshal(v3_4.Merge(a, b), errA, errB)
	case 5:
		a, _, errA := v3_5.ParseCompatibleVersion(ours)
		b, _, errB := v3_5.ParseCompatibleVersion(theirs)
		return marshal(v3_5.Merge(a, b), errA, errB)
	default:
		a, _, errA := v3_3.ParseCompatibleVersion(ours)
		b, _, errB := v3_3.ParseCompatibleVersion(theirs)
		return marshal(v3_3.Merge(a, b), errA, errB)
	}
}

func marshal(config any, errs ...error) ([]byte, error) {
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return json.Marshal(config)
}

// config is what is added, in the oldest version.
func (a Additions) config() types.Config {
	c := types.Config{Ignition: types.Ignition{Version: types.MaxVersion.String()}}
	files := map[string]File{}
	for _, f := range a.Files {
		files[f.Path] = f
	}
	if a.Hostname != "" {
		files["/etc/hostname"] = File{Path: "/etc/hostname", Content: []byte(a.Hostname + "\n")}
	}
	if a.PhoneHomeURL != "" {
		files[phoneHomePath] = File{Path: phoneHomePath, Content: phoneHomeScript(a.PhoneHomeURL, a.InstanceID), Mode: 0o700}
		c.Systemd.Units = append(c.Systemd.Units, types.Unit{
			Name: "bedplate-phone-home.service", Enabled: util.BoolToPtr(true), Contents: util.StrToPtr(phoneHomeUnit),
		})
	}
	for _, path := range slices.Sorted(maps.Keys(files)) {
		c.Storage.Files = append(c.Storage.Files, files[path].ignition())
	}
	if len(a.SSHKeys) > 0 {
		user := types.PasswdUser{Name: a.User}
		if user.Name == "" {
			user.Name = DefaultUser
		}
		for _, key := range a.SSHKeys {
			user.SSHAuthorizedKeys = append(user.SSHAuthorizedKeys, types.SSHAuthorizedKey(strings.TrimSpace(key)))
		}
		c.Passwd.Users = append(c.Passwd.Users, user)
	}
	for _, arg := range a.KernelArguments {
		c.KernelArguments.ShouldExist = append(c.KernelArguments.ShouldExist, types.KernelArgument(arg))
	}
	return c
}

func (f File) ignition() types.File {
	mode := int(f.Mode)
	if mode == 0 {
		mode = 0o644
	}
	return types.File{
		Node: types.Node{Path: f.Path, Overwrite: util.BoolToPtr(true)},
		FileEmbedded1: types.FileEmbedded1{
			Mode:     util.IntToPtr(mode),
			Contents: types.Resource{Source: util.StrToPtr("data:;base64," + base64.StdEncoding.EncodeToString(f.Content))},
		},
	}
}

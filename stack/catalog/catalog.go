// Package catalog is what Bedplate knows of the systems that a platform is made
// of: one file for each in data, by layer, that a person can read and change.
// An entry says where its chart or manifests are, which version is pinned and
// how far that was tried, what it needs and offers, and the values that suit
// bare metal. Profiles are whole stacks to begin from. The package does no I/O
// but reading what is embedded; a Catalog doesn't change and may be used by any
// number of goroutines.
package catalog

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

//go:embed data profiles
var files embed.FS

// Entry is one system.
type Entry struct {
	Name        string `yaml:"name"`
	Title       string `yaml:"title"`
	Description string `yaml:"description"`
	// Layer is one of Layers.
	Layer    string `yaml:"layer"`
	Homepage string `yaml:"homepage"`
	License  string `yaml:"license"`
	// Commercial systems take the customer's own chart, registry and licence.
	Commercial bool `yaml:"commercial"`
	// How says what Bedplate does with a system that isn't put on a cluster:
	// one that is part of the machine, or works on it from outside.
	How string `yaml:"how"`
	// Ended projects have a Successor: the name of another entry.
	Ended     bool   `yaml:"ended"`
	Successor string `yaml:"successor"`
	// Version is the one that is pinned.
	Version string `yaml:"version"`
	// Tested says how far that version was tried; empty: not at all.
	Tested string `yaml:"tested"`
	// Namespace that it goes to.
	Namespace string `yaml:"namespace"`
	// PodSecurity is the pod security level that its namespace has to allow.
	PodSecurity string     `yaml:"pod_security"`
	Chart       *Chart     `yaml:"chart"`
	Manifests   *Manifests `yaml:"manifests"`
	// Needs and Offers are capabilities, such as cni or storage-class.
	Needs  []string `yaml:"needs"`
	Offers []string `yaml:"offers"`
	// Conflicts are names of entries that it can't share a cluster with.
	Conflicts []string       `yaml:"conflicts"`
	Values    map[string]any `yaml:"values"`
	GateSpec  map[string]any `yaml:"gate"`
	Timeout   string         `yaml:"timeout"`
	Notes     string         `yaml:"notes"`
}

// Chart is where a Helm chart is.
type Chart struct {
	Repository string `yaml:"repository"`
	Name       string `yaml:"name"`
	// Version of the chart, where it isn't the system's.
	Version string `yaml:"version"`
}

// Manifests are where Kubernetes objects are. {version} in it is the version.
type Manifests struct {
	URL string `yaml:"url"`
}

// OnCluster reports whether the entry can be a layer of a Stack.
func (e *Entry) OnCluster() bool { return !e.Ended && e.How == "" }

// ChartVersion is the chart's version.
func (e *Entry) ChartVersion() string {
	if e.Chart != nil && e.Chart.Version != "" {
		return e.Chart.Version
	}
	return e.Version
}

// Gate returns the entry's gate; nil: only what holds for all.
func (e *Entry) Gate() (*pb.StackGate, error) {
	if e.GateSpec == nil {
		return nil, nil
	}
	text, err := json.Marshal(e.GateSpec)
	if err != nil {
		return nil, fmt.Errorf("reading the gate of %s: %w", e.Name, err)
	}
	gate := &pb.StackGate{}
	if err := protojson.Unmarshal(text, gate); err != nil {
		return nil, fmt.Errorf("reading the gate of %s: %w", e.Name, err)
	}
	return gate, nil
}

// Layers lists the layers from the machine up.
func Layers() []string {
	return []string{
		"hardware", "underlay", "provisioning", "os", "runtime", "orchestration", "network", "storage", "ingress", "identity",
		"security", "mesh", "registry", "build", "release", "observability",
	}
}

// Exclusive lists the capabilities that a cluster has only once.
func Exclusive() []string { return []string{"cni"} }

// Catalog is a set of entries.
type Catalog struct {
	entries []*Entry
	byName  map[string]*Entry
}

// Builtin returns the catalogue that Bedplate comes with.
var Builtin = sync.OnceValues(func() (*Catalog, error) { return Read(files) })

// Read reads a catalogue: the files data/LAYER/NAME.yaml of fsys.
func Read(fsys fs.FS) (*Catalog, error) {
	c := &Catalog{byName: map[string]*Entry{}}
	err := fs.WalkDir(fsys, "data", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			return err
		}
		e, err := parse(name, text)
		if err != nil {
			return err
		}
		if c.byName[e.Name] != nil {
			return fmt.Errorf("reading %s: there are two of %s", name, e.Name)
		}
		c.entries = append(c.entries, e)
		c.byName[e.Name] = e
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the catalogue: %w", err)
	}
	slices.SortStableFunc(c.entries, func(a, b *Entry) int {
		if d := slices.Index(Layers(), a.Layer) - slices.Index(Layers(), b.Layer); d != 0 {
			return d
		}
		return strings.Compare(a.Name, b.Name)
	})
	return c, c.check()
}

func parse(name string, text []byte) (*Entry, error) {
	e := &Entry{}
	d := yaml.NewDecoder(strings.NewReader(string(text)))
	d.KnownFields(true)
	if err := d.Decode(e); err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if want := path.Join("data", e.Layer, e.Name+".yaml"); want != name {
		return nil, fmt.Errorf("reading %s: layer and name say that it is %s", name, want)
	}
	return e, nil
}

// check looks at what entries say of one another.
func (c *Catalog) check() error {
	var errs []error
	for _, e := range c.entries {
		if !slices.Contains(Layers(), e.Layer) {
			errs = append(errs, fmt.Errorf("%s: no layer %q", e.Name, e.Layer))
		}
		if e.Ended != (e.Successor != "") {
			errs = append(errs, fmt.Errorf("%s: ended and successor go together", e.Name))
		}
		for _, other := range append(slices.Clone(e.Conflicts), e.Successor) {
			if other != "" && c.byName[other] == nil {
				errs = append(errs, fmt.Errorf("%s names %s, which isn't there", e.Name, other))
			}
		}
		if e.OnCluster() && !e.Commercial && (e.Chart == nil) == (e.Manifests == nil) {
			errs = append(errs, fmt.Errorf("%s: has to have either a chart or manifests", e.Name))
		}
		if _, err := e.Gate(); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// All returns the entries, from the lowest layer up.
func (c *Catalog) All() []*Entry { return slices.Clone(c.entries) }

// Named returns the entry of that name.
func (c *Catalog) Named(name string) (*Entry, bool) {
	e, ok := c.byName[name]
	return e, ok
}

// In returns the entries of a layer.
func (c *Catalog) In(layer string) []*Entry {
	var out []*Entry
	for _, e := range c.entries {
		if e.Layer == layer {
			out = append(out, e)
		}
	}
	return out
}

// Profiles lists the profiles by name.
func Profiles() []string {
	list, err := fs.ReadDir(files, "profiles")
	if err != nil {
		return nil // It is embedded: TestProfiles reads it.
	}
	var out []string
	for _, f := range list {
		out = append(out, strings.TrimSuffix(f.Name(), ".yaml"))
	}
	return out
}

// Profile returns the file of a profile: a Stack to change and apply.
func Profile(name string) ([]byte, error) {
	text, err := files.ReadFile("profiles/" + name + ".yaml")
	if err != nil {
		return nil, fmt.Errorf("no profile %q: there are %s", name, strings.Join(Profiles(), ", "))
	}
	return text, nil
}

// Text returns the file of an entry of the built-in catalogue.
func (e *Entry) Text() ([]byte, error) {
	text, err := files.ReadFile(path.Join("data", e.Layer, e.Name+".yaml"))
	if err != nil {
		return nil, fmt.Errorf("reading the entry %s: %w", e.Name, err)
	}
	return text, nil
}

package node

import (
	_ "embed"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

//go:embed distributions.yaml
var distributions []byte

// Distribution is what nodes of a system need, by distributions.yaml.
type Distribution struct {
	Name  string `yaml:"name"`
	Title string `yaml:"title"`
	// KubeletEnvironment is the file that kubelet's unit reads KUBELET_EXTRA_ARGS from.
	KubeletEnvironment string `yaml:"kubelet_environment"`
	// Form is how it is configured where that isn't cloud-init: ignition or talos.
	Form string `yaml:"form"`
	// Talos has an API in place of files.
	Talos    bool        `yaml:"talos"`
	Notes    []string    `yaml:"notes"`
	Runtimes []RuntimeOf `yaml:"runtimes"`
}

// RuntimeOf is a runtime as a distribution has it.
type RuntimeOf struct {
	Name Runtime `yaml:"name"`
	// Config is the version of containerd's configuration.
	Config   int      `yaml:"config"`
	Packages []string `yaml:"packages"`
	Service  string   `yaml:"service"`
	// DropIn is for the service, where it wouldn't read our configuration.
	DropIn string   `yaml:"dropin"`
	Notes  []string `yaml:"notes"`
}

func (d Distribution) runtimes() string {
	var names []string
	for _, r := range d.Runtimes {
		names = append(names, string(r.Name))
	}
	return "it has " + strings.Join(names, ", ")
}

// Distributions returns all there are.
func Distributions() []Distribution {
	var out []Distribution
	if err := yaml.Unmarshal(distributions, &out); err != nil {
		panic(fmt.Sprintf("reading distributions.yaml: %v", err)) // it is part of this program, and tested
	}
	return out
}

// Named returns a distribution by name.
func Named(name string) (Distribution, error) {
	var names []string
	for _, d := range Distributions() {
		if d.Name == name {
			return d, nil
		}
		names = append(names, d.Name)
	}
	return Distribution{}, fmt.Errorf("no distribution %q: there are %s", name, strings.Join(names, ", "))
}

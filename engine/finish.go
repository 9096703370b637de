package engine

import (
	"encoding/json"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// finishFacts is what the agent is told to put right after it wrote an image.
func finishFacts(s *pb.ImageSpec) (map[string]any, error) {
	f := s.GetFinish()
	if f == nil {
		f = &pb.ImageFinish{}
	}
	if s.GetLive() == nil && !delivers(f, s.GetConfiguration()) {
		c := s.GetConfiguration()
		return nil, fmt.Errorf("it is configured by %[1]s, but nothing brings the configuration to it: "+
			"give spec.finish a file with `source: %[1]s`, or the kernel argument that names ${%[1]s_url}", c)
	}
	b, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("reading spec.finish: %w", err)
	}
	var out map[string]any
	if err := json.Unmarshal(b, &out); err != nil {
		return nil, fmt.Errorf("reading spec.finish: %w", err)
	}
	return out, nil
}

// delivers reports whether an image's data brings its configuration to it.
// cloud-init's is brought by the template.
func delivers(f *pb.ImageFinish, configuration string) bool {
	if configuration != "ignition" && configuration != "talos" {
		return true
	}
	for _, x := range f.GetFiles() {
		if x.GetSource() == configuration || strings.Contains(x.GetContent(), "${"+configuration+"_url}") {
			return true
		}
	}
	for _, arg := range f.GetKernelArguments() {
		if strings.Contains(arg, "${"+configuration+"_url}") {
			return true
		}
	}
	return false
}

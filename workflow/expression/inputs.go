package expression

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/workflow/action"
	"github.com/bedplate/bedplate/workflow/plan"
)

func inputType(in *pb.Input) action.Type {
	if in.GetType() == "" {
		return action.String
	}
	return action.Type(in.GetType())
}

// Inputs checks what a workflow gives to a template and fills in the
// defaults. The error is a plan.Problems with paths such as spec.inputs.image.
func Inputs(t *pb.TemplateSpec, given map[string]*structpb.Value) (map[string]*structpb.Value, error) {
	var problems plan.Problems
	out := map[string]*structpb.Value{}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		in, ok := t.GetInputs()[name]
		if !ok {
			names := slices.Sorted(maps.Keys(t.GetInputs()))
			problems.Add(joinKey("spec.inputs", name), 0, "the template has no input %q; %s", name, known(names))
			continue
		}
		v, err := convertInput(in, given[name])
		if err != nil {
			problems.Add(joinKey("spec.inputs", name), 0, "%v", err)
			continue
		}
		out[name] = v
	}
	for _, name := range slices.Sorted(maps.Keys(t.GetInputs())) {
		in := t.Inputs[name]
		if _, ok := given[name]; ok {
			continue
		}
		switch {
		case in.GetDefault() != nil:
			v, err := convertInput(in, in.Default)
			if err != nil {
				problems.Add(joinKey("spec.inputs", name), 0, "default: %v", err)
				continue
			}
			out[name] = v
		case in.GetRequired():
			problems.Add(joinKey("spec.inputs", name), 0, "the template needs this input%s", purpose(in))
		}
	}
	return out, problems.OrNil()
}

func purpose(in *pb.Input) string {
	if in.GetDescription() == "" {
		return ""
	}
	return ": " + in.GetDescription()
}

func known(names []string) string {
	if len(names) == 0 {
		return "it has none"
	}
	return "there are " + strings.Join(names, ", ")
}

func convertInput(in *pb.Input, v *structpb.Value) (*structpb.Value, error) {
	if v == nil {
		return nil, fmt.Errorf("nothing is given, %s is wanted", inputType(in))
	}
	if _, err := coerce(action.Input{Type: inputType(in)}, whole64(v.AsInterface())); err != nil {
		return nil, err
	}
	return v, nil
}

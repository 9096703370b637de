package layout

import (
	"fmt"
	"iter"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// Hints are the expressions over `disk` of a declaration, by the field that
// has them.
func Hints(s *pb.StorageSpec) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		if s.GetRootDisk() != "" && !yield("root_disk", s.GetRootDisk()) {
			return
		}
		for i, d := range s.GetDisks() {
			if d.GetHint() != "" && !yield(fmt.Sprintf("disks[%d].hint", i), d.GetHint()) {
				return
			}
		}
	}
}

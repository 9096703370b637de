package resource

import (
	"github.com/bedplate/bedplate/layout"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// checkStorage looks at what disks are to hold, as a whole: names, the graph
// that they make, sizes.
func checkStorage(s *pb.StorageSpec, errs *FieldErrors) {
	if s == nil {
		return
	}
	_, problems := layout.Read(s)
	for _, p := range problems {
		errs.add(joinField("spec.storage", p.Path), "%s", p.Message)
	}
	for i, e := range s.GetEncryption() {
		checkReference(joinIndex("spec.storage.encryption", i)+".key_secret", e.GetKeySecret(), errs)
	}
}

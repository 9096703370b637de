package resource

import pb "github.com/bedplate/bedplate/proto/bedplate/v1"

// checkStack looks at the fields; what the layers come to is for package
// stack/layer, which has the catalogue.
func checkStack(s *pb.StackSpec, errs *FieldErrors) {
	if s.GetCluster().GetKubeconfigSecret() == "" {
		errs.add("spec.cluster.kubeconfig_secret", "missing: the Secret that holds the cluster's kubeconfig")
	}
	checkReference("spec.cluster.kubeconfig_secret", s.GetCluster().GetKubeconfigSecret(), errs)
	for i, l := range s.GetLayers() {
		checkDuration(joinIndex("spec.layers", i)+".timeout", l.GetTimeout(), errs)
	}
}

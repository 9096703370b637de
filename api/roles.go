package api

import pb "github.com/bedplate/bedplate/proto/bedplate/v1"

// roles returns the least role that each method needs. A method that isn't in
// it can't be called.
func roles() map[string]pb.Role {
	const (
		viewer   = pb.Role_VIEWER
		operator = pb.Role_OPERATOR
		admin    = pb.Role_ADMIN
	)
	return map[string]pb.Role{
		pb.MachineService_GetMachine_FullMethodName:         viewer,
		pb.MachineService_ListMachines_FullMethodName:       viewer,
		pb.MachineService_CreateMachine_FullMethodName:      operator,
		pb.MachineService_UpdateMachine_FullMethodName:      operator,
		pb.MachineService_DeleteMachine_FullMethodName:      operator,
		pb.MachineService_WatchMachines_FullMethodName:      viewer,
		pb.MachineService_ExplainMachine_FullMethodName:     viewer,
		pb.MachineService_GetMachineTimeline_FullMethodName: viewer,
		pb.MachineService_FollowMachine_FullMethodName:      viewer,
		pb.MachineService_RetryMachine_FullMethodName:       operator,
		pb.MachineService_MakeMachineMedium_FullMethodName:  operator,
		pb.MachineService_RevokeMachineMedia_FullMethodName: operator,

		pb.MachineService_ListMachineInventories_FullMethodName: viewer,
		pb.MachineService_DiffMachineInventories_FullMethodName: viewer,
		pb.MachineService_ListMachineTests_FullMethodName:       viewer,

		pb.MachineService_GetMachineBMC_FullMethodName:        viewer,
		pb.MachineService_TrustMachineBMC_FullMethodName:      operator,
		pb.MachineService_ListMachineSensors_FullMethodName:   viewer,
		pb.MachineService_ListMachineEventLog_FullMethodName:  viewer,
		pb.MachineService_ListMachineFirmware_FullMethodName:  viewer,
		pb.MachineService_ListMachineBIOS_FullMethodName:      viewer,
		pb.MachineService_GetMachineSecureBoot_FullMethodName: viewer,
		pb.MachineService_ListMachineBMCUsers_FullMethodName:  viewer,
		pb.MachineService_ScanBMCs_FullMethodName:             operator,
		// Who types on a console is root, as a rule.
		pb.MachineService_GetMachineConsoleLog_FullMethodName: viewer,
		pb.MachineService_WatchMachineConsole_FullMethodName:  viewer,
		pb.MachineService_AttachMachineConsole_FullMethodName: operator,

		pb.NetworkService_GetNetwork_FullMethodName:    viewer,
		pb.NetworkService_ListNetworks_FullMethodName:  viewer,
		pb.NetworkService_CreateNetwork_FullMethodName: operator,
		pb.NetworkService_UpdateNetwork_FullMethodName: operator,
		pb.NetworkService_DeleteNetwork_FullMethodName: operator,
		pb.NetworkService_WatchNetworks_FullMethodName: viewer,

		pb.PoolService_GetPool_FullMethodName:    viewer,
		pb.PoolService_ListPools_FullMethodName:  viewer,
		pb.PoolService_CreatePool_FullMethodName: operator,
		pb.PoolService_UpdatePool_FullMethodName: operator,
		pb.PoolService_DeletePool_FullMethodName: operator,
		pb.PoolService_WatchPools_FullMethodName: viewer,

		pb.RuleService_GetRule_FullMethodName:    viewer,
		pb.RuleService_ListRules_FullMethodName:  viewer,
		pb.RuleService_CreateRule_FullMethodName: operator,
		pb.RuleService_UpdateRule_FullMethodName: operator,
		pb.RuleService_DeleteRule_FullMethodName: operator,
		pb.RuleService_WatchRules_FullMethodName: viewer,

		pb.JobService_GetJob_FullMethodName:    viewer,
		pb.JobService_ListJobs_FullMethodName:  viewer,
		pb.JobService_CreateJob_FullMethodName: operator,
		pb.JobService_UpdateJob_FullMethodName: operator,
		pb.JobService_DeleteJob_FullMethodName: operator,
		pb.JobService_WatchJobs_FullMethodName: viewer,
		pb.JobService_CancelJob_FullMethodName: operator,

		pb.ImageService_GetImage_FullMethodName:    viewer,
		pb.ImageService_ListImages_FullMethodName:  viewer,
		pb.ImageService_CreateImage_FullMethodName: operator,
		pb.ImageService_UpdateImage_FullMethodName: operator,
		pb.ImageService_DeleteImage_FullMethodName: operator,
		pb.ImageService_WatchImages_FullMethodName: viewer,
		pb.ImageService_UploadImage_FullMethodName: operator,
		pb.ImageService_ImportImage_FullMethodName: operator,
		pb.ImageService_VerifyImage_FullMethodName: operator,
		pb.ImageService_PruneImages_FullMethodName: operator,

		pb.TemplateService_GetTemplate_FullMethodName:    viewer,
		pb.TemplateService_ListTemplates_FullMethodName:  viewer,
		pb.TemplateService_CreateTemplate_FullMethodName: operator,
		pb.TemplateService_UpdateTemplate_FullMethodName: operator,
		pb.TemplateService_DeleteTemplate_FullMethodName: operator,
		pb.TemplateService_WatchTemplates_FullMethodName: viewer,

		pb.WorkflowService_GetWorkflow_FullMethodName:     viewer,
		pb.WorkflowService_ListWorkflows_FullMethodName:   viewer,
		pb.WorkflowService_CreateWorkflow_FullMethodName:  operator,
		pb.WorkflowService_UpdateWorkflow_FullMethodName:  operator,
		pb.WorkflowService_DeleteWorkflow_FullMethodName:  operator,
		pb.WorkflowService_WatchWorkflows_FullMethodName:  viewer,
		pb.WorkflowService_FollowWorkflow_FullMethodName:  viewer,
		pb.WorkflowService_CancelWorkflow_FullMethodName:  operator,
		pb.WorkflowService_RetryWorkflow_FullMethodName:   operator,
		pb.WorkflowService_ApproveWorkflow_FullMethodName: operator,

		pb.InstanceService_GetInstance_FullMethodName:       viewer,
		pb.InstanceService_ListInstances_FullMethodName:     viewer,
		pb.InstanceService_CreateInstance_FullMethodName:    operator,
		pb.InstanceService_UpdateInstance_FullMethodName:    operator,
		pb.InstanceService_DeleteInstance_FullMethodName:    operator,
		pb.InstanceService_WatchInstances_FullMethodName:    viewer,
		pb.InstanceService_ReinstallInstance_FullMethodName: operator,

		pb.StackService_GetStack_FullMethodName:        viewer,
		pb.StackService_ListStacks_FullMethodName:      viewer,
		pb.StackService_CreateStack_FullMethodName:     operator,
		pb.StackService_UpdateStack_FullMethodName:     operator,
		pb.StackService_DeleteStack_FullMethodName:     operator,
		pb.StackService_WatchStacks_FullMethodName:     viewer,
		pb.StackService_PlanStack_FullMethodName:       operator,
		pb.StackService_RetryStack_FullMethodName:      operator,
		pb.StackService_PutStackContent_FullMethodName: operator,

		// Who has access, and the names of secrets, are an admin's to know.
		pb.TokenService_GetToken_FullMethodName:    admin,
		pb.TokenService_ListTokens_FullMethodName:  admin,
		pb.TokenService_CreateToken_FullMethodName: admin,
		pb.TokenService_UpdateToken_FullMethodName: admin,
		pb.TokenService_DeleteToken_FullMethodName: admin,
		pb.TokenService_WatchTokens_FullMethodName: admin,

		pb.SecretService_GetSecret_FullMethodName:    admin,
		pb.SecretService_ListSecrets_FullMethodName:  admin,
		pb.SecretService_CreateSecret_FullMethodName: admin,
		pb.SecretService_UpdateSecret_FullMethodName: admin,
		pb.SecretService_DeleteSecret_FullMethodName: admin,
		pb.SecretService_WatchSecrets_FullMethodName: admin,

		pb.EventService_ListEvents_FullMethodName:  viewer,
		pb.EventService_WatchEvents_FullMethodName: viewer,

		pb.ErasureService_GetErasure_FullMethodName:    viewer,
		pb.ErasureService_ListErasures_FullMethodName:  viewer,
		pb.ErasureService_WatchErasures_FullMethodName: viewer,

		pb.SystemService_GetServerInfo_FullMethodName: viewer,
	}
}

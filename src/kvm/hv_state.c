#include "kvm/hv_state.h"

SCHEMA_DEFINE(hv_cpuid_leaf, 1, HV_CPUID_LEAF)
SCHEMA_DEFINE(hv_cpuid, 1, HV_CPUID)
SCHEMA_DEFINE(hv_segment, 1, HV_SEGMENT)
SCHEMA_DEFINE(hv_msr, 1, HV_MSR)
SCHEMA_DEFINE(hv_vcpu_state, 1, HV_VCPU_STATE)
SCHEMA_DEFINE(hv_pic, 1, HV_PIC)
SCHEMA_DEFINE(hv_vm_state, 1, HV_VM_STATE)

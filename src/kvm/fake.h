/* What tests may know of the fake hypervisor's guest (kvm/fake.c). */
#pragma once
#include "kvm/hv.h"

/* The page that vCPU `vcpu` writes at step `step` (counting from 1), of `pages` in slot 0. */
uint64_t hv_fake_page(unsigned vcpu, uint64_t step, uint64_t pages);

/* How often that vCPU was told that it had stood still. */
uint64_t hv_fake_stood_still(struct hv_vcpu *vcpu);

/* Whether slot 0's memory is what `steps` steps of that vCPU leave; if not, the first wrong page. */
bool hv_fake_verify(const uint8_t *host, uint64_t pages, unsigned vcpu, uint64_t steps,
                    uint64_t *ret_page);

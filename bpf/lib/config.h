/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Knobs: read-only data that the loader sets between open and load, so the
 * verifier sees constants and removes dead branches.
 */
#pragma once

#include <bpf/bpf_helpers.h>
#include <linux/types.h>

const volatile __u32 tpx_mark_mask __weak = 0x60000000;
const volatile __u32 tpx_steer_mark __weak = 0x20000000;
const volatile __u32 tpx_own_mark __weak = 0x40000000;
/* 1: every flow is judged as if it were new. No socket is looked for, for that would run sk_lookup programs.
 */
const volatile __u32 tpx_sees_no_socket __weak = 0;
/* Random, another one with each load: only this load's own notes have it (note.h). */
const volatile __u64 tpx_note_key __weak = 0;

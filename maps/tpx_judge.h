/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What tpx_judge is asked: flows that are there already, many at a time. The map
 * is that program's own; nothing of it is pinned or shared.
 */
#pragma once

#include "tpx_abi.h"

#define TPX_QUESTIONS 512 /* at once */

/* tpx_questions[i], memory-mapped. The flow is one of TCP or UDP. */
struct tpx_question {
  struct tpx_flow flow;
  __u32 ifindex;              /* of the device that it came in by; 0: not known */
  __u32 asked;                /* 0: this and what follows is not a question */
  struct tpx_verdict verdict; /* the answer: of the rule; no worker is asked for */
  __u32 answered;             /* 0: there is no policy */
  __u32 certain;              /* 0: a rule that asks for what is not known of the link might come first */
};
TPX_SIZE(struct tpx_question, 96);

/* request_internal: what the request table's files share. */
#pragma once
#include "control/request.h"

struct request {
	struct keeper *k;
	const struct peer *peer;
	const json_t *parameters;
	struct wire *wire;       /* the connection; the descriptors that came with the request */
	bool more;               /* the peer takes progress */
	json_t *reply;           /* the answer's parameters; owned by request_answer */
	int reply_fd;            /* goes with the answer; -1 for none */
	struct rsa_key *key;     /* from the request's key file */
	struct platform_key *platform;
	const char *key_origin;  /* "pfx", "byok" */
	struct secret password;
	struct refusal refusal;
	char bad_parameter[64];  /* which one has the wrong type or is missing; empty when none */
};

int parameter_text(struct request *rq, const char *name, bool required, const char **ret) MUST_CHECK;
int parameter_bool(struct request *rq, const char *name, bool *ret) MUST_CHECK;
int parameter_count(struct request *rq, const char *name, uint64_t *ret) MUST_CHECK; /* absent: 0 */
/* A secret that came as a descriptor: the parameter is its number among those of the message. Absent: empty. */
int parameter_secret(struct request *rq, const char *name, bool required, size_t max, struct secret *ret) MUST_CHECK;

/* reply.c */
json_t *json_number(uint64_t n);
json_t *environment_json(struct keeper *k, const struct registry_env *env);
int reply_environment(struct request *rq, const char *name) MUST_CHECK;
/* With what there is to say of it. */
int reply_mounted(struct request *rq, const char *name) MUST_CHECK;
int reply_environments(struct request *rq, json_t *attention) MUST_CHECK;
/* All keys, with what needs attention and, per region, which guard times run. */
int reply_keys(struct request *rq, json_t *attention) MUST_CHECK;
int reply_key(struct request *rq, const char *name) MUST_CHECK;

/* request_key.c. Handlers; prepare_ is called without the big lock, reads key files. */
int prepare_key_file(struct request *rq) MUST_CHECK;
int prepare_optional_key_file(struct request *rq) MUST_CHECK;
int prepare_password(struct request *rq) MUST_CHECK;
int do_key_generate(struct request *rq) MUST_CHECK;
int do_key_upload(struct request *rq) MUST_CHECK;
int do_key_list(struct request *rq) MUST_CHECK;
int do_key_show(struct request *rq) MUST_CHECK;
int do_key_activate(struct request *rq) MUST_CHECK;
int do_key_unlock(struct request *rq) MUST_CHECK;
int do_kek_show(struct request *rq) MUST_CHECK;
int do_tenant_lock(struct request *rq) MUST_CHECK;
int do_clock_accept(struct request *rq) MUST_CHECK;
int do_env_apply(struct request *rq) MUST_CHECK;
int do_env_return(struct request *rq) MUST_CHECK;
int do_env_attach(struct request *rq) MUST_CHECK;
int do_env_key(struct request *rq) MUST_CHECK;

/* A worker on libgearman.
 *
 *     worker PORT [-n NAMESPACE] COMMAND [ARGUMENT ...]
 *
 * The commands are in the table at the end. */

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libgearman/gearman.h>

enum { TIMEOUT = 8000, SHORT = 100, JOB_TIMEOUT = 5000 };

static gearman_worker_st *worker;

static int outcome(gearman_return_t ret)
{
    printf("%s\n", gearman_strerror(ret));
    return 0;
}

/* The functions. */

static void *upper(gearman_job_st *job, void *context, size_t *size, gearman_return_t *ret)
{
    (void)context;
    const char *workload = gearman_job_workload(job);
    *size = gearman_job_workload_size(job);
    char *result = malloc(*size + 1);
    for (size_t i = 0; i < *size; i++)
        result[i] = toupper((unsigned char)workload[i]);
    *ret = GEARMAN_SUCCESS;
    return result;
}

/* What the worker was told about the job, said to both sides. */
static gearman_return_t tell(gearman_job_st *job, void *context)
{
    (void)context;
    char text[1024];
    int size = snprintf(text, sizeof text, "%s|%s|%s|%.*s", gearman_job_handle(job), gearman_job_function_name(job),
                        gearman_job_unique(job), (int)gearman_job_workload_size(job),
                        (const char *)gearman_job_workload(job));
    printf("%s\n", text);
    return gearman_job_send_complete(job, text, size);
}

static gearman_return_t chatter(gearman_job_st *job, void *context)
{
    (void)context;
    gearman_job_send_status(job, 1, 3);
    gearman_job_send_data(job, "some", 4);
    gearman_job_send_warning(job, "hot", 3);
    gearman_job_send_data(job, "", 0);
    gearman_job_send_status(job, 3, 3);
    return gearman_job_send_complete(job, "done", 4);
}

static gearman_return_t fail(gearman_job_st *job, void *context)
{
    (void)context;
    return gearman_job_send_fail(job);
}

static void *fail_by_return(gearman_job_st *job, void *context, size_t *size, gearman_return_t *ret)
{
    (void)job;
    (void)context;
    *size = 0;
    *ret = GEARMAN_WORK_FAIL;
    return NULL;
}

static gearman_return_t raise_exception(gearman_job_st *job, void *context)
{
    (void)context;
    gearman_job_send_data(job, "so far", 6);
    return gearman_job_send_exception(job, "broken", 6);
}

/* This sends WORK_EXCEPTION and then something more. */
static gearman_return_t raise_and_go_on(gearman_job_st *job, void *context)
{
    (void)context;
    gearman_job_send_exception(job, "broken", 6);
    gearman_job_send_data(job, "late", 4);
    return GEARMAN_FAIL;
}

static const struct {
    const char *name;
    gearman_function_fn *function;
} FUNCTIONS[] = {
    {"tell", tell},
    {"chatter", chatter},
    {"fail", fail},
    {"raise", raise_exception},
    {"raise and go on", raise_and_go_on},
};

/* Each part of a partition's workload, up to a space, is a job of the reducer; the aggregator joins the results. */
static gearman_return_t split(gearman_job_st *job, void *context)
{
    (void)context;
    const char *workload = gearman_job_workload(job);
    const char *end = workload + gearman_job_workload_size(job);
    while (workload < end) {
        const char *space = memchr(workload, ' ', end - workload);
        const char *part = space ? space : end;
        gearman_return_t ret = gearman_job_send_data(job, workload, part - workload);
        if (ret != GEARMAN_SUCCESS)
            return ret;
        workload = part + 1;
    }
    return GEARMAN_SUCCESS;
}

static gearman_return_t join(gearman_aggregator_st *aggregator, gearman_task_st *task, gearman_result_st *result)
{
    (void)aggregator;
    char text[1024];
    size_t size = 0;
    for (; task; task = gearman_next(task)) {
        gearman_result_st *part = gearman_task_result(task);
        if (part && size + gearman_result_size(part) + 1 < sizeof text) {
            memcpy(text + size, gearman_result_value(part), gearman_result_size(part));
            size += gearman_result_size(part);
            text[size++] = '+';
        }
    }
    return gearman_result_store_value(result, text, size);
}

static gearman_return_t define(const char *name, gearman_function_t function, uint32_t timeout)
{
    return gearman_worker_define_function(worker, name, strlen(name), function, timeout, NULL);
}

static void define_all(void)
{
    gearman_worker_add_function(worker, "upper", JOB_TIMEOUT, upper, NULL);
    gearman_worker_add_function(worker, "fail by return", 0, fail_by_return, NULL);
    for (size_t i = 0; i < sizeof FUNCTIONS / sizeof *FUNCTIONS; i++)
        define(FUNCTIONS[i].name, gearman_function_create(FUNCTIONS[i].function), 0);
}

/* The commands. */

static int work(char **arguments)
{
    for (int count = atoi(arguments[0]); count; count--)
        outcome(gearman_worker_work(worker));
    return 0;
}

static int command_work(char **arguments)
{
    define_all();
    return work(arguments);
}

static int command_partition(char **arguments)
{
    define("split", gearman_function_create_partition(split, join), 0);
    return work(arguments);
}

static int command_grab(char **arguments)
{
    gearman_return_t ret;
    gearman_worker_add_options(worker, GEARMAN_WORKER_GRAB_UNIQ);
    if (arguments[1])
        gearman_worker_remove_options(worker, GEARMAN_WORKER_GRAB_UNIQ);
    gearman_worker_register(worker, arguments[0], 0);
    gearman_job_st *job = gearman_worker_grab_job(worker, NULL, &ret);
    if (!job)
        return outcome(ret);
    printf("%s|%s|%s|%.*s\n", gearman_job_handle(job), gearman_job_function_name(job), gearman_job_unique(job),
           (int)gearman_job_workload_size(job), (const char *)gearman_job_workload(job));
    outcome(gearman_job_send_status(job, 1, 2));
    return outcome(gearman_job_send_complete(job, "grabbed", 7));
}

/* libgearman tells the server of abilities when it asks for a job. There is none; then wait for the next line. */
static bool step(gearman_return_t ret)
{
    char line[80];
    outcome(ret);
    gearman_worker_grab_job(worker, NULL, &ret);
    outcome(ret);
    fflush(stdout);
    return fgets(line, sizeof line, stdin) != NULL;
}

static int command_abilities(char **arguments)
{
    (void)arguments;
    gearman_worker_set_timeout(worker, SHORT);
    gearman_worker_set_identifier(worker, "libgearman", strlen("libgearman"));
    gearman_worker_register(worker, "first", 0);
    gearman_worker_register(worker, "second", JOB_TIMEOUT);
    return !(step(gearman_worker_register(worker, "third", 0)) && step(gearman_worker_unregister(worker, "second")) &&
             step(gearman_worker_unregister_all(worker)));
}

static int command_echo(char **arguments)
{
    return outcome(gearman_worker_echo(worker, arguments[0], strlen(arguments[0])));
}

static const struct {
    const char *name;
    int (*run)(char **arguments);
} COMMANDS[] = {
    {"work", command_work},           /* COUNT */
    {"partition", command_partition}, /* COUNT */
    {"grab", command_grab},           /* FUNCTION [without a unique] */
    {"abilities", command_abilities}, /* a step for each line of input */
    {"echo", command_echo},           /* DATA */
};

static int run(char **arguments)
{
    for (size_t i = 0; i < sizeof COMMANDS / sizeof *COMMANDS; i++)
        if (*arguments && !strcmp(*arguments, COMMANDS[i].name))
            return COMMANDS[i].run(arguments + 1);
    fprintf(stderr, "what is %s?\n", *arguments ? *arguments : "nothing");
    return 2;
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    worker = gearman_worker_create(NULL);
    gearman_worker_set_timeout(worker, TIMEOUT);
    if (gearman_worker_add_server(worker, "127.0.0.1", atoi(argv[1])) != GEARMAN_SUCCESS)
        return 2;
    char **rest = argv + 2;
    for (; *rest && **rest == '-'; rest++)
        if (!strcmp(*rest, "-n") && *++rest)
            gearman_worker_set_namespace(worker, *rest, strlen(*rest));
    int status = run(rest);
    gearman_worker_free(worker);
    return status;
}
